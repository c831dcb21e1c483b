"""Cholesky factors and eigenvalues of many small symmetric matrices.

torch factors a batch at once, but its eigenvalues on CUDA come one matrix after another: for 128
matrices of 300 rows that takes ten times the forward and backward pass they belong to.
The kernels of :mod:`layergrad.spectra.kernels` solve all of them at once. Devices that cannot
compile them go torch's way.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from layergrad.spectra.kernels import (
    bisect,
    compiled,
    fits_one_stage,
    fits_two_stage,
    one_stage,
    two_stage,
)

Reduction = Callable[[SimpleNamespace, Tensor], tuple[Tensor, Tensor]]

# Repeated tokens make a Gram matrix singular. A pivot of this part of the trace keeps its factor
# real and moves a singular value by less than 1e-7 of the largest.
JITTER = 1e-14
# A factor that LAPACK still refuses is tried once more with this many times the jitter.
RETRY = 1e4

# From this many rows on two stages are faster than one. Measured on an H100 with 128 matrices,
# milliseconds in one stage and in two: 200 rows 1.4 and 1.8, 220 rows 2.0 and 1.9, 300 rows 5.7
# and 3.0.
TWO_STAGE_ROWS = 220


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
    if not matrices.is_cuda or matrices.numel() == 0:
        return _torch_eigenvalues(matrices)
    kernels = compiled(matrices.device.index)
    n = matrices.shape[-1]
    reduction = kernels and _reduction(kernels, n)
    if not reduction:
        return _torch_eigenvalues(matrices)
    values = solve(kernels, reduction, matrices.contiguous().view(-1, n, n))
    return values.view(matrices.shape[:-1])


def solve(kernels: SimpleNamespace, reduction: Reduction, matrices: Tensor) -> Tensor:
    """Return the eigenvalues of ``(count, n, n)`` matrices by our kernels, NaN as above."""
    with torch.cuda.device(matrices.device):
        diagonals, offdiagonals = reduction(kernels, matrices)
        values = bisect(kernels, diagonals, offdiagonals)
    # what is not finite in a matrix reaches its tridiagonal form, wherever it was
    finite = diagonals.isfinite().all(-1) & offdiagonals[:, :-1].isfinite().all(-1)
    return torch.where(finite[:, None], values, torch.nan)


def _reduction(kernels: SimpleNamespace, n: int) -> Reduction | None:
    """Choose the faster way to tridiagonal form among those that fit in shared memory."""
    if n >= TWO_STAGE_ROWS and fits_two_stage(kernels, n):
        return two_stage
    return one_stage if fits_one_stage(kernels, n) else None


def _torch_eigenvalues(matrices: Tensor) -> Tensor:
    finite = matrices.diagonal(dim1=-2, dim2=-1).isfinite().all(-1, keepdim=True)
    values = torch.linalg.eigvalsh(torch.where(finite[..., None], matrices, 0.0))
    return torch.where(finite, values, torch.nan)
