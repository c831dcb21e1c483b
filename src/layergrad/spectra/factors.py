"""Exact singular values of a weight gradient from its two factors.

For y = W x over T tokens the gradient is G = D^T X (D: T x out, gradients at the layer's output;
X: T x in, its input), so its rank is at most min(T, in, out). With X X^T = L L^T (Cholesky) the
singular values of G are the square roots of the eigenvalues of L^T (D D^T) L, a T x T matrix.
Gram matrices square the condition number, so everything here is float64, whatever the factors are.

Where T exceeds a side of G, G itself is the smaller thing: it is formed, and its Gram matrix on the
short side gives the singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Repeated tokens make X X^T singular in layer 0; this keeps the Cholesky factor real and moves a
# singular value by less than 1e-7 of the largest.
JITTER = 1e-14


def singular_values(inputs: Tensor, output_gradients: list[Tensor]) -> list[Tensor]:
    """Return the singular values of dL/dW for projections that share their input.

    Parameters
    ----------
    inputs
        X, shape ``(..., T, in)``: inputs of the projections. Rows whose output gradients are zero
        (padding) may hold any finite numbers.
    output_gradients
        D of each projection, shape ``(..., T, out)``.

    Returns
    -------
    list of Tensor
        For each projection float64, shape ``(..., min(T, in, out))``, descending.
    """
    squared = [eigenvalues(gram) for gram in reduced_grams(inputs, output_gradients)]
    return [values.clamp_min(0).sqrt().flip(-1) for values in squared]


def reduced_grams(inputs: Tensor, output_gradients: list[Tensor]) -> list[Tensor]:
    """Return, for each projection, the smallest symmetric matrix with the eigenvalues of G^T G.

    Returns
    -------
    list of Tensor
        float64, shape ``(..., r, r)`` with ``r = min(T, in, out)``; its eigenvalues are the squared
        singular values of G.
    """
    X = inputs.double()
    tokens, width = X.shape[-2:]
    factor: Tensor | None = None
    grams = []
    for gradient in output_gradients:
        D = gradient.double()
        if tokens <= min(width, D.shape[-1]):
            factor = _cholesky(X @ X.mT) if factor is None else factor
            grams.append(_token_side(factor, D))
        else:
            grams.append(_short_side(D.mT @ X))
    return grams


def eigenvalues(grams: Tensor) -> Tensor:
    """Return the eigenvalues of symmetric matrices, ascending; NaN where a matrix is not finite."""
    finite = grams.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], grams, 0.0))
    return torch.where(finite[..., None], values, torch.nan)


def _cholesky(gram: Tensor) -> Tensor:
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    jitter = JITTER * diagonal.sum(-1, keepdim=True)
    gram = gram + torch.diag_embed(jitter.expand_as(diagonal))
    factor, info = torch.linalg.cholesky_ex(gram)
    if info.any():
        # not positive definite to working precision: ten thousand times the jitter still moves a
        # singular value by less than 1e-5 of the largest
        gram = gram + torch.diag_embed((1e4 * jitter).expand_as(diagonal))
        retried, info = torch.linalg.cholesky_ex(gram)
        factor = torch.where(torch.isfinite(retried), retried, torch.nan)
    return factor


def _token_side(factor: Tensor, D: Tensor) -> Tensor:
    """Return L^T (D D^T) L, by the cheaper order of products."""
    tokens, out = D.shape[-2:]
    if out > 2 * tokens:
        return factor.mT @ (D @ D.mT) @ factor
    half = D.mT @ factor
    return half.mT @ half


def _short_side(gradient: Tensor) -> Tensor:
    rows, columns = gradient.shape[-2:]
    return gradient @ gradient.mT if rows <= columns else gradient.mT @ gradient
