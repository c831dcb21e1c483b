"""Properties of the spectra function alone, on any factors."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layergrad.spectra.factors import singular_values

sides = st.integers(1, 24)


def factors(tokens: int, width: int, out: int, repeats: int, zeros: int, scale: int, seed: int):
    random = torch.Generator().manual_seed(seed)
    X = torch.randn(tokens, width, generator=random, dtype=torch.float64)
    D = torch.randn(tokens, out, generator=random, dtype=torch.float64)
    X[: min(repeats, tokens)] = X[0].clone()  # repeated tokens: X X^T is singular
    D[: min(zeros, tokens)] = 0  # padding, or positions without gradient
    return X, D * 10.0**scale


@settings(max_examples=200, deadline=None)
@given(sides, sides, sides, sides, sides, st.integers(-6, 6), st.integers(0, 1000))
def test_they_are_those_of_the_full_gradient(tokens, width, out, repeats, zeros, scale, seed):
    X, D = factors(tokens, width, out, repeats, zeros, scale, seed)
    expected = torch.linalg.svdvals(D.T @ X)
    (found,) = singular_values(X, [D])
    assert len(found) == min(tokens, width, out)
    assert (found[:-1] >= found[1:]).all() and (found >= 0).all()
    kept = expected[: len(found)]
    assert (found - kept).abs().max() <= 1e-6 * max(expected[0].item(), 1e-300)
    # the Frobenius norm, by another road: ||G||^2 = sum(X X^T * D D^T)
    square = ((X @ X.T) * (D @ D.T)).sum()
    assert abs(found.square().sum() - square) <= 1e-6 * square + 1e-300


@settings(max_examples=50, deadline=None)
@given(sides, sides, sides, st.integers(0, 1000))
def test_padding_adds_nothing(tokens, width, out, seed):
    X, D = factors(tokens, width, out, 0, 0, 0, seed)
    rows = torch.randn(5, width, dtype=torch.float64)
    padded = torch.cat([X, rows]), torch.cat([D, torch.zeros(5, out, dtype=torch.float64)])
    (found,), (more,) = singular_values(X, [D]), singular_values(padded[0], [padded[1]])
    assert (more[: len(found)] - found).abs().max() <= 1e-6 * found[0]
    assert (more[len(found) :] <= 1e-6 * found[0]).all()


def test_a_batch_is_its_samples():
    X, D = torch.randn(3, 7, 5), torch.randn(3, 7, 6)
    (together,) = singular_values(X, [D])
    for i in range(3):
        torch.testing.assert_close(together[i], singular_values(X[i], [D[i]])[0])


def test_what_is_not_finite_is_nan_and_spoils_nothing_else():
    X, D = torch.randn(2, 4, 5), torch.randn(2, 4, 6)
    D[1, 2, 3] = torch.inf
    (found,) = singular_values(X, [D])
    assert found[0].isfinite().all() and found[1].isnan().all()
