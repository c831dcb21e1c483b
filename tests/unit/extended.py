"""Eigenvalues in extended precision, slow and simple: what faster solvers are compared with."""

from __future__ import annotations

import numpy as np

BISECTIONS = 72  # an interval of twice the norm shrinks below the last bit of 64


def extended_eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of a symmetric matrix, ascending, in numpy's long double."""
    return _bisect(*_tridiagonal(matrix.astype(np.longdouble)))


def _tridiagonal(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Householder's reduction: return diagonal and off-diagonal."""
    diagonal, offdiagonal = [A[0, 0]], []
    while len(A) > 1:
        v, A = A[1:, 0].copy(), A[1:, 1:]
        offdiagonal.append(-np.copysign(np.sqrt(v @ v), v[0]))
        v[0] -= offdiagonal[-1]
        if v.any():
            v /= np.sqrt(v @ v)
            y = A @ v
            w = 2 * (y - (v @ y) * v)
            A = A - np.outer(v, w) - np.outer(w, v)
        diagonal.append(A[0, 0])
    return np.array(diagonal), np.array(offdiagonal, dtype=np.longdouble)


def _bisect(diagonal: np.ndarray, offdiagonal: np.ndarray) -> np.ndarray:
    n = len(diagonal)
    norm = abs(diagonal).max() + 2 * max(abs(offdiagonal), default=0)
    if norm == 0:
        return diagonal
    low, high = np.full(n, -norm), np.full(n, norm)
    tiny = norm * np.longdouble(1e-40)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        ratio, below, square = np.ones(n, np.longdouble), np.zeros(n, int), np.longdouble(0)
        for i in range(n):
            ratio = diagonal[i] - middle - square / ratio
            ratio[abs(ratio) < tiny] = -tiny
            below += ratio < 0
            square = offdiagonal[i] ** 2 if i < n - 1 else square
        too_high = below > np.arange(n)
        low, high = np.where(too_high, low, middle), np.where(too_high, middle, high)
    return (low + high) / 2
