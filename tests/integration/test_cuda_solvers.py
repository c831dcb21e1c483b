"""Our eigenvalue kernels on a real GPU, in one stage and in two."""

from __future__ import annotations

import functools
from functools import partial

import pytest
import torch

from layergrad.spectra import kernels, solvers
from tests.unit.extended import extended_eigenvalues

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

REDUCTIONS = {"one": kernels.one_stage, "two": kernels.two_stage}
SIZES = [1, 2, 3, 5, 31, 32, 33, 63, 64, 65, 96, 97, 129, 200]


def matrices(kind, n, seed=0):
    """Return three symmetric matrices, their norms far apart."""
    random = torch.Generator().manual_seed(seed + n)
    normal = partial(torch.randn, dtype=torch.float64, generator=random)
    if kind == "graded":  # eigenvalues over sixteen orders of magnitude, as of Gram matrices
        factor = normal(3, n, n + 3) * torch.logspace(0, -8, n + 3, dtype=torch.float64)
    elif kind == "rank-deficient":
        factor = normal(3, n, max(n // 3, 1))
    elif kind == "clustered":  # two eigenvalues and a cluster 1e-9 wide
        vectors = torch.linalg.qr(normal(3, n, n)).Q
        values = torch.ones(n, dtype=torch.float64)
        values[: n // 3] = 2
        values[n // 2 :] += 1e-9 * torch.rand(n - n // 2, dtype=torch.float64, generator=random)
        factor = vectors * values.sqrt()
    else:  # indefinite
        factor = normal(3, n, n)
        return (factor + factor.mT) * torch.tensor([1, 1e-20, 1e20], dtype=torch.float64).view(
            3, 1, 1
        )
    return factor @ factor.mT * torch.tensor([1, 1e-20, 1e20], dtype=torch.float64).view(3, 1, 1)


def solved(reduction, given):
    found = kernels.compiled(torch.cuda.current_device())
    return solvers.solve(found, REDUCTIONS[reduction], given.cuda())


@functools.cache
def expected_of(kind, n):
    return [extended_eigenvalues(matrix) for matrix in matrices(kind, n).numpy()]


KINDS = ["graded", "rank-deficient", "clustered", "indefinite"]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eigenvalues_are_exact(reduction, kind, n):
    """Against extended precision: LAPACK's own errors are no smaller than ours."""
    found = solved(reduction, matrices(kind, n)).cpu().numpy()
    for values, expected in zip(found, expected_of(kind, n), strict=True):
        assert abs(values - expected).max() <= 2e-15 * abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [512, 513, 800, 1600, 1700, 4096])
def test_eigenvalues_of_large_matrices_are_those_of_lapack(kind, n):
    given = matrices(kind, n)[: 3 if n < 2000 else 1]
    expected = torch.linalg.eigvalsh(given)
    found = solvers.eigenvalues(given.cuda()).cpu()
    norm = expected.abs().amax(-1, keepdim=True)
    assert ((found - expected).abs() <= 2e-14 * norm).all()
    assert (found.diff() >= 0).all()


def test_the_kernels_were_compiled():
    assert kernels.compiled(torch.cuda.current_device()) is not None


@pytest.mark.parametrize("n", [5, 50, 300])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_degenerate_matrices(reduction, n):
    ascending = torch.arange(float(n), dtype=torch.float64)
    found = solved(reduction, torch.stack([torch.zeros(n, n).double(), ascending.diag()])).cpu()
    assert found[0].abs().max() == 0
    assert (found[1] - ascending).abs().max() <= 2e-15 * n


@pytest.mark.parametrize("n", [3, 40, 300])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_nan_and_spoils_nothing_else(value, reduction, n):
    given = matrices("graded", n)[:1].repeat(4, 1, 1)
    given[1, n - 1, n - 1] = value
    given[2, n - 1, 0] = given[2, 0, n - 1] = value
    found = solved(reduction, given)
    assert found[1:3].isnan().all()
    assert found[0].isfinite().all() and torch.equal(found[0], found[3])


@pytest.mark.parametrize("n", [100, 333])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_matrix_gives_the_same_bits_in_any_batch(reduction, n, monkeypatch):
    given = torch.cat([matrices("graded", n, seed) for seed in range(60)])
    together = solved(reduction, given)
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 20_000_000)  # several launches
    assert torch.equal(together, solved(reduction, given))
    for start, stop in [(0, 1), (7, 12), (150, 180)]:
        assert torch.equal(together[start:stop], solved(reduction, given[start:stop]))


def test_batches_may_have_more_dimensions_and_strides():
    given = matrices("graded", 300).cuda()
    expected = solvers.eigenvalues(given.clone())
    found = solvers.eigenvalues(given.mT.expand(2, 3, 300, 300))
    assert found.shape == (2, 3, 300)
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
