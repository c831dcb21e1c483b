"""Check and time the batched eigenvalues on CUDA against torch's."""

from __future__ import annotations

import sys
import time
from functools import partial

import torch

from layergrad.spectra import solvers


def timed(work, repeats: int = 3) -> float:
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats * 1e3


def _solve_copy(matrices: torch.Tensor) -> torch.Tensor:
    return solvers.eigenvalues(matrices.clone())  # the solver destroys what it is given


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [1, 2, 9, 100, 128, 300, 600, 1000]
    for n in sizes:
        count = max(min(1024, int(4e8 / n**2 / 8 * 4)), 128)
        factor = torch.randn(count, n, 2 * n, device="cuda", dtype=torch.float64)
        factor *= torch.logspace(0, -6, 2 * n, device="cuda", dtype=torch.float64)
        matrices = factor @ factor.mT
        expected = torch.linalg.eigvalsh(matrices[:64])
        found = solvers.eigenvalues(matrices.clone())
        scale = expected[:, -1:].abs()
        error = ((found[:64] - expected) / scale).abs().max().item()
        eigen = timed(partial(_solve_copy, matrices))
        eigen_torch = timed(partial(torch.linalg.eigvalsh, matrices[:64]), 1) * count / 64
        print(
            f"n={n} count={count} error {error:.1e} | ms per 128 matrices: "
            f"ours {eigen * 128 / count:.2f}, torch {eigen_torch * 128 / count:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
