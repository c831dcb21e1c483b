"""Check and time the batched eigenvalues on CUDA: one stage, two stages, torch and CuPy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from layergrad.spectra import kernels, solvers

SIZES = [100, 200, 240, 300, 600, 1000, 1600, 2048, 4096]
COUNT = 128  # matrices, as many as a sample of Llama-3.1-8B has
CHECKED = 2  # of them, with LAPACK
SLOW = 4  # of them are timed with torch, which takes one after another
CUPY_ROWS = 1000  # CuPy solves batches, and takes minutes for larger ones


def milliseconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the median time of a call."""
    work()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    return sorted(times)[repeats // 2]


def gram_matrices(count: int, n: int) -> Tensor:
    """Return matrices whose eigenvalues span twelve orders of magnitude, as those of gradients."""
    matrices = torch.empty(count, n, n, device="cuda", dtype=torch.float64)
    scale = torch.logspace(0, -6, n, device="cuda", dtype=torch.float64)
    for matrix in matrices:  # one by one: the factors of all would take as much memory again
        factor = torch.randn(n, n, device="cuda", dtype=torch.float64) * scale
        torch.mm(factor, factor.T, out=matrix)
    return matrices


def ours(reduction: solvers.Reduction, matrices: Tensor, given: Tensor) -> Tensor:
    given.copy_(matrices)  # the solver destroys what it is given
    return solvers.solve(kernels.compiled(given.device.index), reduction, given)


def cupy_milliseconds(matrices: Tensor) -> float:
    try:
        import cupy
    except ImportError:
        return float("nan")
    return milliseconds(lambda: cupy.linalg.eigvalsh(cupy.asarray(matrices)), 1)


def measure(n: int, others: bool) -> None:
    matrices = gram_matrices(COUNT, n)
    given = torch.empty_like(matrices)
    copying = milliseconds(lambda: given.copy_(matrices))
    expected = torch.linalg.eigvalsh(matrices[:CHECKED].cpu())
    line = f"{n:5}"
    found = kernels.compiled(given.device.index)
    for reduction, fits in [
        (kernels.one_stage, kernels.fits_one_stage(found, n)),
        (kernels.two_stage, kernels.fits_two_stage(found, n)),
    ]:
        if not fits:
            line += f" {'-':>9} {'-':>9}"
            continue
        values = ours(reduction, matrices, given)[:CHECKED].cpu()
        error = ((values - expected).abs().amax(-1) / expected[:, -1]).max().item()
        taken = milliseconds(partial(ours, reduction, matrices, given)) - copying
        line += f" {taken:9.2f} {error:9.0e}"
    if others:
        some = matrices[:SLOW].clone()
        taken = milliseconds(lambda: torch.linalg.eigvalsh(some), 1) * COUNT / SLOW
        line += f" {taken:9.0f}"
        line += f" {cupy_milliseconds(matrices):9.0f}" if n <= CUPY_ROWS else f" {'-':>9}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="rows of the matrices")
    parser.add_argument("--ours", action="store_true", help="leave out torch and CuPy")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, milliseconds per {COUNT} matrices")
    columns = ["one stage", "error", "two", "error", "torch", "CuPy"]
    print(" rows", *(f"{column:>9}" for column in columns))
    for n in options.sizes:
        measure(n, not options.ours)


if __name__ == "__main__":
    main()
