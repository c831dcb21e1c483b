"""The singular values of a weight gradient from its two factors.

For y = W x over T tokens the gradient is G = D^T X (D: T x out, gradients at the layer's output;
X: T x in, its input), so its rank is at most min(T, in, out). With X X^T = L L^T (Cholesky) the
squared singular values of G are the eigenvalues of L^T (D D^T) L, a T x T matrix. Gram matrices
square the condition number, so they are float64, whatever the factors are.

Where T exceeds a side of G, G itself is the smaller thing: it is formed and solved directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layergrad.spectra.solvers import cholesky, eigenvalues

# On a CPU the token side wins up to this part of the shorter side of G. Measured with one thread,
# milliseconds for a side of 576: at 400 tokens 21 against 30, at 450 29 against 30, at 500 37
# against 30; for a side of 192: at 150 tokens 1.9 against 2.2, at 200 3.2 against 2.3.
TOKEN_SHARE = 0.8
# The Gram matrix of a gradient this much longer than wide is solved faster than the gradient: for
# 192 x 576 in 2.6 ms against 5.6 ms; a square one of 576 takes 33 ms against 29 ms.
ELONGATED = 2


def singular_values(inputs: Tensor, output_gradients: list[Tensor]) -> list[Tensor]:
    """Return the singular values of dL/dW for projections that share their input.

    The way that is cheaper on a CPU is taken for each projection.

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
        For each projection shape ``(..., min(T, in, out))``, descending; NaN where a factor is not
        finite.
    """
    tokens, width = inputs.shape[-2:]
    factor: Tensor | None = None
    found = []
    for gradient in output_gradients:
        if tokens <= TOKEN_SHARE * min(width, gradient.shape[-1]):
            factor = _token_factor(inputs) if factor is None else factor
            found.append(roots(eigenvalues(_token_side(factor, gradient.double()))))
        else:
            found.append(_of_gradient(_formed(inputs, gradient))[..., :tokens])
    return found


def reduced_grams(inputs: Tensor, output_gradients: list[Tensor]) -> list[Tensor]:
    """Return, for each projection, the smallest symmetric matrix with the eigenvalues of G^T G.

    For solvers of many matrices at once, whose cost goes by the size of the matrix alone.

    Returns
    -------
    list of Tensor
        float64, shape ``(..., r, r)`` with ``r = min(T, in, out)``; its eigenvalues are the squared
        singular values of G.
    """
    tokens, width = inputs.shape[-2:]
    factor: Tensor | None = None
    grams = []
    for gradient in output_gradients:
        if tokens <= min(width, gradient.shape[-1]):
            factor = _token_factor(inputs) if factor is None else factor
            grams.append(_token_side(factor, gradient.double()))
        else:
            grams.append(_short_side(gradient.double().mT @ inputs.double()))
    return grams


def roots(values: Tensor) -> Tensor:
    """Turn eigenvalues, ascending, into singular values, descending; below zero is rounding."""
    return values.clamp_min(0).sqrt().flip(-1)


def _token_factor(inputs: Tensor) -> Tensor:
    X = inputs.double()
    return cholesky(X @ X.mT)


def _token_side(factor: Tensor, D: Tensor) -> Tensor:
    """Return L^T (D D^T) L, by the cheaper order of products."""
    tokens, out = D.shape[-2:]
    if out > 2 * tokens:
        return factor.mT @ (D @ D.mT) @ factor
    half = D.mT @ factor
    return half.mT @ half


def _formed(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return G in float32 at least, whose rounding moves a singular value by 1e-7 of the first."""
    if inputs.dtype == torch.bfloat16:
        inputs, gradient = inputs.float(), gradient.float()
    return gradient.mT @ inputs


def _of_gradient(gradient: Tensor) -> Tensor:
    short, long = sorted(gradient.shape[-2:])
    if long >= ELONGATED * short:
        return roots(eigenvalues(_short_side(gradient.double())))
    finite = gradient.isfinite().all(-1).all(-1)[..., None]
    values = torch.linalg.svdvals(torch.where(finite[..., None], gradient, 0.0))
    return torch.where(finite, values, torch.nan)


def _short_side(gradient: Tensor) -> Tensor:
    rows, columns = gradient.shape[-2:]
    return gradient @ gradient.mT if rows <= columns else gradient.mT @ gradient
