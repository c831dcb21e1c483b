"""The engine on a real GPU: the same numbers as float64 autograd, a sharded model."""

from __future__ import annotations

import pytest
import torch

from layergrad.models.layouts import find_places
from layergrad.models.random import random_model
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
