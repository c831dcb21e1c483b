"""The engine on a real GPU: the same numbers as float64 autograd, our kernels, a sharded model."""

from __future__ import annotations

import pytest
import torch

from layergrad.models.layouts import find_places
from layergrad.models.random import random_model
from layergrad.spectra import solvers
from layergrad.spectra.batches import pad
from layergrad.spectra.extract import Extractor, Failed
from layergrad.spectra.measure import measure
from tests.unit import reference
from tests.unit.test_engine import ALL, ARCHITECTURES, SAMPLES, sample, worst_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_metrics_agree_with_float64_autograd(name):
    architecture, shape, projections, parts = ARCHITECTURES[name]
    model = random_model(architecture, shape, seed=1)
    losses, spectra = reference.reference_spectra(model, SAMPLES, parts)
    model.requires_grad_(False).cuda()
    places = find_places(model, projections)
    got = measure(model, places, projections, pad(SAMPLES, 0, torch.device("cuda")))
    assert worst_error(got, losses, spectra) < 1e-4


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 100, 257, 512, 513, 800, 1600, 1700])
def test_eigenvalues_are_those_of_lapack(n):
    """1700 rows exceed a block's shared memory and go torch's way."""
    random = torch.Generator("cuda").manual_seed(n)
    factor = torch.randn(3, n, n + 3, device="cuda", dtype=torch.float64, generator=random)
    factor *= torch.logspace(0, -8, n + 3, device="cuda", dtype=torch.float64)
    matrices = factor @ factor.mT
    matrices[1] *= 1e-20
    expected = torch.linalg.eigvalsh(matrices.cpu())
    found = solvers.eigenvalues(matrices.clone()).cpu()
    assert ((found - expected).abs() <= 1e-13 * expected[:, -1:]).all()


def test_the_kernels_were_compiled():
    assert solvers._compile(torch.cuda.current_device()) is not None


def test_degenerate_matrices():
    zeros = torch.zeros(2, 50, 50, device="cuda", dtype=torch.float64)
    zeros[1] = torch.diag(torch.arange(50.0, dtype=torch.float64))
    found = solvers.eigenvalues(zeros.clone()).cpu()
    assert found[0].abs().max() == 0
    torch.testing.assert_close(found[1], torch.arange(50.0, dtype=torch.float64))
    zeros[0, 3, 3] = torch.nan
    assert solvers.eigenvalues(zeros)[0].isnan().all()


def test_a_model_split_over_devices_gives_the_same_spectra():
    """By hand over CPU and GPU: layers live apart, and their inputs are carried to them."""
    model = random_model("llama", {"num_hidden_layers": 4}, seed=2).requires_grad_(False)
    losses, spectra = reference.reference_spectra(model, SAMPLES, reference.LLAMA)
    for module, device in [
        *zip(model.model.layers, ["cpu", "cuda", "cpu", "cuda"], strict=True),
        (model.model.norm, "cuda"),
        (model.lm_head, "cuda"),
    ]:
        module.to(device)
        module.register_forward_pre_hook(_carry_to(torch.device(device)), with_kwargs=True)
    got = measure(model, find_places(model, ALL), ALL, pad(SAMPLES, 0, torch.device("cpu")))
    assert worst_error(got, losses, spectra) < 1e-4


def _carry_to(device):
    def move(value):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return tuple(map(move, value)) if isinstance(value, tuple) else value

    return lambda _module, args, kwargs: (move(args), {k: move(v) for k, v in kwargs.items()})


def test_running_out_of_memory_halves_the_budget_and_goes_on():
    """A real one: the process may use 2 GB, and the first budget asks for more."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    model = random_model("llama", {"hidden_size": 512, "intermediate_size": 4096}, seed=3).cuda()
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    try:
        given = [sample(400, 100, seed) for seed in range(60)]
        extractor = Extractor(model.requires_grad_(False), ["q", "o"], token_budget=24_000)
        results = dict(result for batch in extractor.run(given) for result in batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert sorted(results) == list(range(60))
    assert not any(isinstance(result, Failed) for result in results.values())
    assert extractor.usage.token_budget < 24_000
    assert extractor.usage.peak_bytes < 2e9
