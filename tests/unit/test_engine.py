"""The engine against float64 autograd and full SVDs, on tiny models of every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layergrad.errors import UserError
from layergrad.models.encode import Encoded
from layergrad.models.layouts import find_places
from layergrad.models.random import random_model
from layergrad.spectra.batches import pad
from layergrad.spectra.measure import measure
from tests.unit import reference

ALL = ["q", "k", "v", "o", "gate", "up", "down"]
NO_GATE = ["q", "k", "v", "o", "up", "down"]
ATTENTION = ["q", "k", "v", "o"]
FULL = {"num_key_value_heads": None}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

ARCHITECTURES = {
    "llama": ("llama", {}, ALL, reference.LLAMA),
    "llama-tied": ("llama", {"tie_word_embeddings": True}, ALL, reference.LLAMA),
    "mistral": ("mistral", {"sliding_window": 16}, ALL, reference.LLAMA),
    "qwen2": ("qwen2", {}, ALL, reference.LLAMA),
    "qwen3": ("qwen3", {}, ALL, reference.LLAMA),
    "gemma2": ("gemma2", {"sliding_window": 16}, ALL, reference.LLAMA),
    "gemma3": ("gemma3_text", {"sliding_window": 16}, ALL, reference.LLAMA),
    "olmo2": ("olmo2", {}, ALL, reference.LLAMA),
    "phi3": ("phi3", {}, ALL, reference.phi3),
    "gpt2": ("gpt2", {}, NO_GATE, reference.gpt2),
    "gpt_neox": ("gpt_neox", {}, NO_GATE, reference.gpt_neox),
    "falcon-groups": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        NO_GATE,
        reference.falcon,
    ),
    "falcon-one-key": ("falcon", {"multi_query": True}, NO_GATE, reference.falcon),
    "falcon-interleaved": (
        "falcon",
        {"multi_query": False, "new_decoder_architecture": False},
        NO_GATE,
        reference.falcon,
    ),
    "qwen3_moe": ("qwen3_moe", MOE, ATTENTION, reference.LLAMA_ATTENTION),
    "mixtral": ("mixtral", {"num_local_experts": 4}, ATTENTION, reference.LLAMA_ATTENTION),
}


def sample(tokens: int, start: int, seed: int = 0) -> Encoded:
    ids = np.random.default_rng(seed + tokens).integers(3, 250, tokens)
    return Encoded(tuple(int(i) for i in ids), start, tokens)


# below and above the sides of the matrices (48; 24 for k and v; 64 in the MLP), one response token,
# and tokens that repeat, so that the inputs of layer 0 have equal rows
SAMPLES = [
    sample(9, 8),
    sample(20, 4),
    sample(37, 12),
    sample(90, 30),
    Encoded((5, 7, 5, 5, 7) * 6, 10, 30),
    sample(33, 32, 1),
    sample(64, 40),
]


def metrics(values: np.ndarray) -> np.ndarray:
    """Nuclear norm, sigma1 ratio, effective rank, Frobenius and spectral norm."""
    s = np.asarray(values, dtype=np.float64)
    p = s[s > 0] / s.sum()
    entropy = -(p * np.log(p)).sum()
    return np.array([s.sum(), s[0] / s.sum(), np.exp(entropy), np.sqrt((s**2).sum()), s[0]])


def worst_error(got: list, losses: list, spectra: list) -> float:
    worst = 0.0
    for measured, loss, expected in zip(got, losses, spectra, strict=True):
        assert set(measured.spectra) == set(expected)
        worst = max(worst, abs(measured.loss / loss - 1))
        for place, values in expected.items():
            error = metrics(measured.spectra[place]) / metrics(values.numpy()) - 1
            worst = max(worst, np.abs(error).max())
    return worst


def run(model, projections, samples, size, reduction="mean"):
    places = find_places(model.requires_grad_(False), projections)
    got = []
    for i in range(0, len(samples), size):
        batch = pad(samples[i : i + size], 0, torch.device("cpu"))
        got += measure(model, places, projections, batch, reduction)
    return got


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_metrics_agree_with_float64_autograd(name):
    architecture, shape, projections, parts = ARCHITECTURES[name]
    model = random_model(architecture, shape, seed=1)
    losses, spectra = reference.reference_spectra(model, SAMPLES, parts)
    for size in (1, 2, 7):
        assert worst_error(run(model, projections, SAMPLES, size), losses, spectra) < 1e-4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention):
    model = random_model("llama", {"attn_implementation": attention}, seed=2)
    losses, spectra = reference.reference_spectra(model, SAMPLES, reference.LLAMA)
    assert model.config._attn_implementation == attention
    assert worst_error(run(model, ALL, SAMPLES, 7), losses, spectra) < 1e-4


def test_sum_reduction_is_the_mean_times_the_tokens():
    model = random_model("llama", {}, seed=3)
    losses, spectra = reference.reference_spectra(model, SAMPLES, reference.LLAMA, "sum")
    assert worst_error(run(model, ALL, SAMPLES, 7, "sum"), losses, spectra) < 1e-4


def test_batch_size_does_not_matter():
    model = random_model("gemma3_text", {}, seed=4)
    alone, together = run(model, ALL, SAMPLES, 1), run(model, ALL, SAMPLES, 7)
    for one, other in zip(alone, together, strict=True):
        for place, values in one.spectra.items():
            assert np.abs(metrics(values) / metrics(other.spectra[place]) - 1).max() < 1e-3


def test_bfloat16_stays_near_float32():
    model = random_model("llama", {}, seed=5)
    exact = run(model, ATTENTION, SAMPLES, 7)
    rounded = run(model.bfloat16(), ATTENTION, SAMPLES, 7)
    errors = [
        np.abs(metrics(values) / metrics(b.spectra[place]) - 1)
        for a, b in zip(exact, rounded, strict=True)
        for place, values in a.spectra.items()
    ]
    assert np.median(errors) < 0.02  # of the arithmetic of the model itself, not of the spectra


def test_ranks_are_bounded_by_the_response_in_the_last_layer():
    model = random_model("llama", {}, seed=6)
    for measured, given in zip(run(model, ATTENTION, SAMPLES, 7), SAMPLES, strict=True):
        for projection in "qo":
            values = measured.spectra[2, projection]
            rank = (values > 1e-5 * values[0]).sum()
            assert rank <= given.response_tokens


def test_a_gradient_that_vanishes_stays_negligible():
    """Equal tokens make attention uniform: the gradients of q and k in layer 0 are zero."""
    model = random_model("llama", {}, seed=6)
    same = Encoded((5,) * 30, 10, 30)
    _, spectra = reference.reference_spectra(model, [same], reference.LLAMA_ATTENTION)
    measured = run(model, ATTENTION, [same], 1)[0].spectra
    scale = spectra[0][0, "v"].sum().item()
    for place, values in spectra[0].items():
        assert abs(measured[place].sum() - values.sum().item()) < 1e-4 * scale, place


def test_only_asked_projections_come_back():
    model = random_model("phi3", {}, seed=7)
    assert {p for _, p in run(model, ["k"], SAMPLES[:1], 1)[0].spectra} == {"k"}


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_experts_are_refused_by_name(architecture):
    shape = MOE if architecture == "qwen3_moe" else {"num_local_experts": 4}
    with pytest.raises(UserError, match="experts"):
        find_places(random_model(architecture, shape, seed=0), ["up"])


def test_unknown_modules_are_listed():
    model = random_model("bloom", {"hidden_size": 48, "n_head": 4, "n_layer": 2}, seed=0)
    for block in model.transformer.h:
        block.self_attention.mystery = block.self_attention.query_key_value
        del block.self_attention.query_key_value
    with pytest.raises(UserError, match="mystery"):
        find_places(model, ["q"])


def test_a_missing_projection_is_named():
    with pytest.raises(UserError, match="no projection gate"):
        find_places(random_model("gpt2", {}, seed=0), ["gate"])


def test_weights_that_are_not_finite_are_a_fault_of_the_sample():
    model = random_model("llama", {}, seed=8)
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    for measured in run(model, ATTENTION, SAMPLES[:2], 2):
        assert "the loss is nan" in measured.fault()
