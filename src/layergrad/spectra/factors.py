"""The small matrix that has the singular values of a weight gradient, from its two factors.

For y = W x over T tokens the gradient is G = D^T X (D: T x out, gradients at the layer's output;
X: T x in, its input), so its rank is at most min(T, in, out). With X X^T = L L^T (Cholesky) the
squared singular values of G are the eigenvalues of L^T (D D^T) L, a T x T matrix. Gram matrices
square the condition number, so everything here is float64, whatever the factors are.

Where T exceeds a side of G, G itself is the smaller thing: it is formed, and its Gram matrix on the
short side is taken instead.
"""

from __future__ import annotations

from torch import Tensor

from layergrad.spectra.solvers import cholesky, eigenvalues


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
    return [roots(eigenvalues(gram)) for gram in reduced_grams(inputs, output_gradients)]


def roots(values: Tensor) -> Tensor:
    """Turn eigenvalues, ascending, into singular values, descending; below zero is rounding."""
    return values.clamp_min(0).sqrt().flip(-1)


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
            factor = cholesky(X @ X.mT) if factor is None else factor
            grams.append(_token_side(factor, D))
        else:
            grams.append(_short_side(D.mT @ X))
    return grams


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
