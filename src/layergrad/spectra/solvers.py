"""Cholesky factors and eigenvalues of many small symmetric matrices.

torch factors a batch at once, but its eigenvalues on CUDA come one matrix after another: for 128
matrices of 300 rows that takes ten times the forward and backward pass they belong to.
``kernels.cu`` gives every matrix a block of its own; it is compiled at first use by the compiler
that comes with torch. Matrices too large for a block's shared memory, and devices that cannot
compile it, go torch's way.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from types import SimpleNamespace

import torch
from torch import Tensor

from layergrad.progress import say

# Repeated tokens make a Gram matrix singular. A pivot of this part of the trace keeps its factor
# real and moves a singular value by less than 1e-7 of the largest.
JITTER = 1e-14
# A factor that LAPACK still refuses is tried once more with this many times the jitter.
RETRY = 1e4

PANEL = 8  # columns whose updates are delayed; more do not fit in registers
# Two blocks of 512 threads hide each other's waits; where the shared memory of a multiprocessor
# holds only one, it has 1024.
THREADS = {2: 512, 1: 1024}
BISECTIONS = 55  # an interval of twice the norm shrinks to its last bit


def cholesky(grams: Tensor) -> Tensor:
    """Return lower Cholesky factors of positive semidefinite matrices.

    Parameters
    ----------
    grams
        float64, shape ``(..., n, n)``.

    Returns
    -------
    Tensor
        float64, shape ``(..., n, n)``, NaN where `grams` cannot be factored.
    """
    diagonal = grams.diagonal(dim1=-2, dim2=-1)
    jitter = (JITTER * diagonal.sum(-1, keepdim=True)).expand_as(diagonal)
    factors, info = torch.linalg.cholesky_ex(grams + torch.diag_embed(jitter))
    if not info.any():
        return factors
    retried, info = torch.linalg.cholesky_ex(grams + torch.diag_embed(RETRY * jitter))
    return torch.where((info == 0)[..., None, None], retried, torch.nan)


def eigenvalues(matrices: Tensor) -> Tensor:
    """Return the eigenvalues of symmetric matrices.

    Parameters
    ----------
    matrices
        float64, shape ``(..., n, n)``; destroyed on CUDA.

    Returns
    -------
    Tensor
        float64, shape ``(..., n)``, ascending; NaN where a matrix is not finite.
    """
    finite = matrices.diagonal(dim1=-2, dim2=-1).isfinite().all(-1, keepdim=True)
    kernels = _kernels_for(matrices)
    if kernels is None:
        values = torch.linalg.eigvalsh(torch.where(finite[..., None], matrices, 0.0))
    else:
        values = _cuda_eigenvalues(kernels, matrices.contiguous())
    return torch.where(finite, values, torch.nan)


def _cuda_eigenvalues(kernels: SimpleNamespace, matrices: Tensor) -> Tensor:
    n, count = matrices.shape[-1], _count(matrices)
    diagonals = matrices.new_empty(matrices.shape[:-1])
    offdiagonals, values = torch.empty_like(diagonals), torch.empty_like(diagonals)
    blocks = 2 if 2 * 8 * _tridiagonal_doubles(n, 2) <= kernels.shared_bytes else 1
    reduced = [matrices, diagonals, offdiagonals, n]
    doubles = _tridiagonal_doubles(n, blocks)
    _launch(kernels.tridiagonalise[blocks], (count,), THREADS[blocks], doubles, reduced)
    threads = 128
    grid = (count, -(-n // threads))
    sought = [diagonals, offdiagonals, values, n, BISECTIONS]
    _launch(kernels.bisect, grid, threads, 2 * n, sought)
    return values


def _tridiagonal_doubles(n: int, blocks: int) -> int:
    return (2 * PANEL + 1) * n + THREADS[blocks] + 32


def _count(matrices: Tensor) -> int:
    return matrices.shape[:-2].numel()


def _launch(kernel, grid: tuple[int, ...], threads: int, doubles: int, arguments: list) -> None:
    with torch.cuda.device(arguments[0].device):
        kernel((*grid, 1, 1)[:3], (threads, 1, 1), arguments, shared_mem=8 * doubles)


def _kernels_for(matrices: Tensor) -> SimpleNamespace | None:
    if not matrices.is_cuda or matrices.numel() == 0:
        return None
    with torch.cuda.device(matrices.device):
        kernels = _compile(matrices.device.index)
    fits = kernels and 8 * _tridiagonal_doubles(matrices.shape[-1], 1) <= kernels.shared_bytes
    return kernels if fits else None


@functools.cache
def _compile(index: int) -> SimpleNamespace | None:
    """Compile the kernels for a device, once a process; None where that is not possible."""
    source = files("layergrad.spectra").joinpath("kernels.cu").read_text(encoding="utf-8")
    available = torch.cuda.get_device_properties(index).shared_memory_per_block_optin - 1024

    def build(name: str, threads: int):
        options = [f"-DTHREADS={threads}", f"-DPANEL={PANEL}"]
        kernel = torch.cuda._compile_kernel(source, name, nvcc_options=options)
        kernel.set_shared_memory_config(available)
        return kernel

    try:
        tridiagonalise = {n: build("tridiagonalise", threads) for n, threads in THREADS.items()}
        bisect = build("bisect", THREADS[1])
    except (AttributeError, OSError, RuntimeError) as error:
        say(f"the CUDA kernels could not be compiled, spectra take torch's slow way: {error}")
        return None
    return SimpleNamespace(tridiagonalise=tridiagonalise, bisect=bisect, shared_bytes=available)
