"""What preflight finds: a fault is put into the engine or the model, and a check must fail."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from layergrad.errors import UserError
from layergrad.models.encode import Encoded, Encoder
from layergrad.models.layouts import find_places
from layergrad.models.random import byte_tokenizer, random_model
from layergrad.plan import Plan
from layergrad.spectra import autograd, capture, measure, preflight
from layergrad.spectra.limits import Limits
from layergrad.spectra.pair import failures_of
from tests.unit.test_engine import ALL, ARCHITECTURES
from tests.unit.test_extraction import study

ENCODER = Encoder(byte_tokenizer(), "clean", False, None, 1024)


def tiny(architecture: str, attention: str = "sdpa", **shape):
    model = random_model(architecture, {"attn_implementation": attention, **shape}, 1)
    return model.requires_grad_(False)


def failed(model, projections=("q", "k", "v", "o"), dtype="float32") -> str | None:
    settings = {
        "dtype": dtype,
        "attention": model.config._attn_implementation,
        "projections": list(projections),
        "reduction": "mean",
    }
    try:
        return failures_of(preflight.run_checks(model, ENCODER, settings))
    except UserError as error:  # the engine refuses the model by name
        return str(error)


def changed_places(monkeypatch, change) -> None:
    """Let the engine and the checks work with other places than those of the model."""
    from layergrad.spectra import extract

    def find(model, projections):
        return change(find_places(model, projections))

    for module in (preflight, extract):
        monkeypatch.setattr(module, "find_places", find)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_supported_architecture_passes(name, attention):
    architecture, shape, projections, _ = ARCHITECTURES[name]
    if architecture == "gemma2":
        attention = "eager"
    assert failed(tiny(architecture, attention, **shape), projections) is None


def test_bfloat16_and_float64_pass():
    assert failed(tiny("qwen3").bfloat16(), ALL, "bfloat16") is None
    assert failed(tiny("qwen3").double(), ALL, "float64") is None


def test_the_sum_of_losses_is_compared_as_such():
    settings = {"dtype": "float32", "attention": "sdpa", "projections": ["q"], "reduction": "sum"}
    assert failures_of(preflight.run_checks(tiny("llama"), ENCODER, settings)) is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["phi3", "gpt2", "gpt_neox", "falcon"])
def test_a_fused_weight_whose_parts_are_swapped(architecture, attention, monkeypatch):
    """Queries and keys in each other's place: their sum is right, so only the use tells."""

    def swap(places):
        def divide(output, place):
            parts = place.divide(output)
            return [parts[1], parts[0], *parts[2:]]

        return [
            replace(p, divide=lambda out, p=p: divide(out, p)) if "q" in p.projections else p
            for p in places
        ]

    changed_places(monkeypatch, swap)
    assert "of q in layer 0 is" in failed(tiny(architecture, attention))


@pytest.mark.parametrize("architecture", ["gpt_neox", "falcon"])
def test_interleaved_heads_taken_for_blocks(architecture, monkeypatch):
    def blocks(places):
        def divide(output):
            return list(output.chunk(3, dim=-1))

        return [replace(p, divide=divide) if len(p.projections) == 3 else p for p in places]

    changed_places(monkeypatch, blocks)
    shape = {"multi_query": False} if architecture == "falcon" else {}
    assert "autograd: " in failed(tiny(architecture, **shape))


def test_gate_and_up_swapped(monkeypatch):
    def swap(places):
        return [
            replace(p, divide=lambda out, p=p: p.divide(out)[::-1]) if "up" in p.projections else p
            for p in places
        ]

    changed_places(monkeypatch, swap)
    assert "gate in layer" in failed(tiny("phi3"), ["gate", "up", "down"])


def test_separate_modules_taken_for_each_other(monkeypatch):
    other = {"q": "k", "k": "q"}

    def rename(places):
        return [
            replace(p, projections=tuple(other.get(n, n) for n in p.projections)) for p in places
        ]

    changed_places(monkeypatch, rename)
    assert "is taken for k, but the model does not use it so" in failed(tiny("llama"))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_that_is_left_out(layer, monkeypatch):
    changed_places(monkeypatch, lambda places: [p for p in places if p.layer != layer])
    assert f"model.layers.{layer} runs the same modules" in failed(tiny("llama"))


def test_one_projection_of_one_layer_left_out(monkeypatch):
    changed_places(
        monkeypatch,
        lambda places: [p for p in places if not (p.layer == 1 and "o" in p.projections)],
    )
    assert "model.layers.1 runs the same modules as other layers, but its o would" in failed(
        tiny("llama")
    )


def test_a_module_that_runs_twice():
    model = tiny("llama")
    block = model.model.layers[1].self_attn
    original = block.forward

    def twice(hidden_states, **rest):
        again = original(hidden_states, **rest)
        return (original(hidden_states, **rest)[0] + again[0], again[1])

    block.forward = twice
    named = r"of layer 1 arrived 2 times|layers\.1\.self_attn\..* called more than once"
    assert re.search(named, failed(model))


def test_weights_that_layers_share():
    model = tiny("llama")
    model.model.layers[2].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with_names = failed(model)
    assert "0.self_attn.q_proj" in with_names and "2.self_attn.q_proj" in with_names


def test_inputs_that_differ_within_a_group():
    """Keys that read something else than queries do: one input is kept for both."""
    model = tiny("llama")
    for layer in model.model.layers:
        layer.self_attn.k_proj.register_forward_pre_hook(lambda _module, args: (2 * args[0] + 1,))
    # either measured rightly, by an engine that keeps the input of each module, or found
    found = failed(model)
    assert found is None or "k in layer" in found


def test_the_loss_one_position_off(monkeypatch):
    def shifted(batch):
        sample, position, targets = positions(batch)
        return sample, (position - 1).clamp_min(0), targets

    positions = capture.response_positions
    monkeypatch.setattr(capture, "response_positions", shifted)
    assert "the loss is" in failed(tiny("llama"))


def test_the_loss_over_the_prompt_too(monkeypatch):
    positions = capture.response_positions

    def whole(batch):
        return positions(replace(batch, starts=[1] * len(batch.starts)))

    monkeypatch.setattr(capture, "response_positions", whole)
    assert "the loss is" in failed(tiny("llama"))


def test_attention_that_looks_ahead():
    model = tiny("llama", is_causal=False)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    original = torch.nn.functional.scaled_dot_product_attention

    def open_(query, key, value, attn_mask=None, **rest):
        return original(query, key, value, **{**rest, "is_causal": False})

    patch = pytest.MonkeyPatch()
    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", open_)
    try:
        settings = {"dtype": "float32", "attention": "sdpa"}
        ids = preflight.built_in_ids(ENCODER, Limits.of(model))
        assert preflight.causality(model, ids, settings).status == "failed"
    finally:
        patch.undo()


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_the_longest_sample(kind, monkeypatch):
    """The engine keeps such samples apart; where it does not, the batch shows it."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {
            "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 6,
            "long_factor": [4.0] * 6,
        }
    model = tiny("llama", rope_parameters=rope, max_position_embeddings=32)
    assert preflight.rope_limit(model) == 32
    for module in (capture, measure):
        together = lambda _model, lengths: [list(range(len(lengths)))]  # noqa: E731
        monkeypatch.setattr(module, "companies", together, raising=False)
        monkeypatch.setattr(module, "forget", lambda _model: None, raising=False)
    assert "padding and batch" in failed(model)


def test_a_batch_that_changes_a_sample():
    model = tiny("llama")
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda _m, _a, out: out + out[:, :1].mean(0, keepdim=True) / 5)
    assert "padding and batch" in failed(model)


def test_weights_that_are_not_numbers():
    model = tiny("llama")
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    found = failed(model)
    assert "non_finite: the loss is nan" in found
    assert "autograd: the loss is nan, autograd says nan; nuclear norm of q in layer 0" in found


def test_another_precision_than_asked_for():
    assert "precision: " in failed(tiny("llama"), dtype="bfloat16")


@pytest.mark.parametrize(("protocol", "status"), [("clean", "failed"), ("paper", "noted")])
def test_two_bos_fail_in_the_clean_protocol_alone(protocol, status, monkeypatch):
    encoder = replace(ENCODER, protocol=protocol)
    monkeypatch.setattr(Encoder, "encode", lambda *_: Encoded((1, 1, 40, 41), 3, 4))
    check = preflight.bos_count(encoder)
    assert (check.status, check.value) == (status, 2)


def test_a_check_that_raises_has_failed_and_the_others_are_made(monkeypatch):
    def broken(*_):
        raise IndexError("index out of range")

    monkeypatch.setattr(preflight, "causality", broken)
    assert failed(tiny("llama")) == "causality: IndexError: index out of range"


def test_short_positions_and_small_vocabularies_are_respected():
    assert failed(tiny("gpt2", n_positions=12)) is None
    assert failed(tiny("gpt2", vocab_size=100)) is None


def test_a_large_gradient_is_compressed_without_loss(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    D, X = (torch.randn(23, n, generator=generator, dtype=torch.float64) for n in (90, 70))
    exact = torch.linalg.svdvals(D.T @ X)[:23]
    monkeypatch.setattr(autograd, "FULL_SIDE", 50)
    assert torch.allclose(autograd.singular_values(D.T @ X, 23), exact, rtol=1e-12)


def test_the_verdict_depends_on_the_model_alone():
    key = Plan(study(4)).preflight_key("tiny")
    others = [
        study(9, controls=["correct"], extraction={"max_length": 99, "response_tokens": 3}),
        study(4, seed=7, runtime={"token_budget": 5}),
    ]
    assert {Plan(other).preflight_key("tiny") for other in others} == {key}
    assert Plan(study(4, extraction={"reduction": "sum"})).preflight_key("tiny") != key
    assert Plan(study(4, extraction={"projections": ["q"]})).preflight_key("tiny") != key


def test_a_verdict_does_not_depend_on_how_long_a_sample_may_be():
    encoder = Encoder(byte_tokenizer(), "clean", True, None, 1024)
    short = replace(encoder, max_length=8, cut=1)
    assert preflight.bos_count(short) == preflight.bos_count(encoder)
    assert preflight.bos_count(short).status == "passed"
