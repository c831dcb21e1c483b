"""Layouts, hybrids, and the guards of the capture: exact, or refused by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from layergrad.errors import UserError
from layergrad.models.layouts import coverage, decoder_layers, find_places
from layergrad.models.lengths import companies
from layergrad.models.random import random_model
from layergrad.spectra.batches import pad
from layergrad.spectra.capture import gradient_factors
from layergrad.spectra.extract import bytes_per_token
from layergrad.spectra.measure import measure
from layergrad.spectra.similarity import cosines
from tests.zoo.check import SAMPLES, check_type, sample
from tests.zoo.models import tiny_model
from tests.zoo.variants import MULTIMODAL, VARIANTS

ATTENTION = list("qkvo")

# one type for every layout and every kind of layer; `make zoo` runs them all
EXACT = {
    "bart": "exact",  # cross-attention that a text alone does not use
    "bloom": "exact",
    "codegen": "exact",
    "ctrl": "exact",
    "dbrx": "refused",
    "deepseek_v3": "refused",
    "gemma3n_text": "exact",
    "gemma4_text": "exact",
    "granitemoehybrid": "refused",
    "inkling2_text": "refused",  # q, k and v read different inputs
    "jamba": "refused",
    "kimi_linear": "refused",
    "minimax": "refused",
    "modernbert-decoder": "exact",
    "moshi": "exact",  # linear maps inside wrappers
    "mpt": "exact",
    "opt": "exact",  # an MLP that sees (batch * T, width)
    "persimmon": "exact",
    "phi": "exact",
    "qwen3_5_text": "exact",
    "qwen3_next": "refused",
    "recurrent_gemma": "exact",
}
SHAPES = (
    "GPTBigCode, one key per head",
    "GPTBigCode, StarCoder",
    "Gemma 4 31B (keys are values)",
    "Phi-3.5, Phi-4-mini (longrope)",
    "Llama, dynamic RoPE",
    "Nemotron-H",
)


@pytest.mark.parametrize("architecture", EXACT)
def test_layouts_agree_with_autograd(architecture):
    verdicts = check_type(architecture)
    assert verdicts["attention"]["verdict"] == "exact", verdicts["attention"]
    assert verdicts["mlp"]["verdict"] == EXACT[architecture], verdicts["mlp"]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_published_models_agree_with_autograd(name):
    verdicts = check_type(*VARIANTS[name])
    assert {v["verdict"] for v in verdicts.values()} == {"exact"}, verdicts


def test_a_model_that_selects_tokens_for_attention_is_exact_in_a_mixed_batch():
    assert check_type("deepseek_v32")["attention"]["verdict"] == "exact"


def test_layers_of_a_tower_as_deep_as_the_text_are_passed_over():
    from transformers import AutoModelForImageTextToText

    model = tiny_model("qwen3_vl", MULTIMODAL["qwen3_vl"], auto=AutoModelForImageTextToText)
    assert "language_model.layers.0" in decoder_layers(model)[0][1]
    assert coverage(model, ATTENTION).complete


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Llama, not causal", "is_causal: False"),
        ("EmbeddingGemma (bidirectional)", "use_bidirectional_attention: True"),
        ("Zamba, hybrid in every layer", "share one weight"),
        ("BLOOM, slow and exact", "self_attention.dense"),
    ],
)
def test_shapes_that_would_be_wrong_are_refused(name, message):
    verdict = check_type(*VARIANTS[name])["attention"]
    assert verdict["verdict"] == "refused" and message in verdict["message"]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("mamba", "MambaForCausalLM has no attention: its 4 layers are made of MambaMixer"),
        ("rwkv", "has no attention"),
        ("bert", "tokens attend to later ones"),
        ("mllama", "model.layers.3.cross_attn.q_proj"),
        ("zaya", "not one linear map"),
        ("deepseek_v4", "no known attention layout fits model.layers.0"),
    ],
)
def test_types_that_are_not_covered_say_why(architecture, message):
    verdict = check_type(architecture)["attention"]
    assert verdict["verdict"] == "refused" and message in verdict["message"]


# ------------------------------------------------------------------------------------ coverage


def test_a_hybrid_says_which_layers_have_no_attention():
    surveyed = coverage(tiny_model(*VARIANTS["LFM2"][:2]), ATTENTION)
    assert surveyed.found == {2: ("q", "k", "v", "o")}
    assert surveyed.absent == dict.fromkeys([0, 1, 3], "Lfm2ShortConv")
    expected = "4 layers: none in 0-1, 3 (Lfm2ShortConv); q, k, v, o in 2"
    assert surveyed.describe() == expected and not surveyed.complete


def test_layers_that_take_keys_and_values_of_others_are_named():
    surveyed = coverage(
        tiny_model(*VARIANTS["Gemma 4 E2B (shared keys and values)"][:2]), ATTENTION
    )
    assert surveyed.found[5] == ("q", "o") and surveyed.absent[5] == "no k, v of its own"


def test_a_complete_model_has_every_projection_everywhere():
    surveyed = coverage(random_model("llama", {}, 0), ["q", "up"])
    assert surveyed.complete and surveyed.describe() == "q, up in all 3 layers"


def test_an_unknown_mixer_is_not_taken_for_a_layer_without_attention():
    class Mystery(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(48, 48)

    model = random_model("llama", {}, 0)
    model.model.layers[1].self_attn = Mystery()
    with pytest.raises(UserError, match=r"no known attention layout fits model\.layers\.1"):
        find_places(model, ATTENTION)


def test_values_under_another_name_are_not_left_out():
    """q_proj, k_proj and o_proj with a further weight is not the layout without values."""
    model = random_model("llama", {}, 0)
    for layer in model.model.layers:
        layer.self_attn.values = layer.self_attn.v_proj
        del layer.self_attn.v_proj
    with pytest.raises(UserError, match=r"self_attn\.values"):
        find_places(model, ATTENTION)


def test_a_split_that_does_not_fit_its_weight_is_refused_before_any_pass():
    model = random_model("phi3", {}, 0)
    model.config.head_dim = 13
    with pytest.raises(UserError, match=r"rows do not divide into q, k, v"):
        find_places(model, ATTENTION)


# -------------------------------------------------------------------------------------- guards


def llama(change=None):
    model = random_model("llama", {}, 3).requires_grad_(False)
    if change is not None:
        change(model)
    return model


def run(model, projections=ATTENTION, places=None):
    batch = pad(SAMPLES[:2], 0, torch.device("cpu"))
    return measure(model, places or find_places(model, projections), projections, batch)


def wrap(module, function):
    """Replace the forward of a module by a function of the old one and its argument."""
    forward = module.forward
    module.forward = lambda x: function(forward, x)


def twice(model):
    attention = model.model.layers[1].self_attn
    norm = model.model.layers[1].post_attention_layernorm
    wrap(norm, lambda forward, x: forward(x + 0.1 * attention.o_proj(x)))


def never(model):
    mlp = model.model.layers[1].mlp
    wrap(mlp, lambda forward, x: nn.functional.linear(x, mlp.up_proj.weight)[..., :48])


def tied(model):
    layers = model.model.layers
    layers[2].self_attn.q_proj.weight = layers[0].self_attn.q_proj.weight


def same_module(model):
    layers = model.model.layers
    layers[2].self_attn.q_proj = layers[0].self_attn.q_proj


def in_place(model):
    projection = model.model.layers[1].self_attn.v_proj

    def scaled(forward, x):
        result = forward(x)
        with torch.no_grad():
            x.mul_(2.0)
        return result

    wrap(projection, scaled)


def tuples(model):
    wrap(model.model.layers[0].self_attn.k_proj, lambda forward, x: Pair(forward(x)))


class Pair:
    """An output that is no tensor, but works as one in the model."""

    def __init__(self, tensor):
        self.tensor = tensor

    def view(self, *shape):
        return self.tensor.view(*shape)


def half_the_tokens(model):
    """A projection that sees every second token."""
    projection = model.model.layers[0].self_attn.v_proj
    projection.register_forward_pre_hook(lambda _m, args: (args[0][:, ::2],))
    projection.register_forward_hook(
        lambda _m, _a, output: output.repeat_interleave(2, dim=1)[:, : SAMPLES[1].full_length]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, r"layers\.1\.self_attn\.o_proj is called more than once"),
        (tied, r"layers\.0\.self_attn\.q_proj and model\.layers\.2.* share one weight"),
        (same_module, r"layers\.2\.self_attn\.q_proj.*share one weight"),
        (in_place, r"layers\.1\.self_attn\.[qkv]_proj: its input was changed in place"),
        (tuples, r"layers\.0\.self_attn\.k_proj does not turn one tensor into one tensor"),
        (half_the_tokens, r"layers\.0\.self_attn\.v_proj: its input or output has shape"),
    ],
)
def test_what_a_hook_would_get_wrong_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        run(llama(change))


def test_a_module_that_is_never_called_is_named():
    message = r"3 modules were not called.*layers\.1\.mlp\.gate_proj"
    with pytest.raises(UserError, match=message):
        run(llama(never), ["gate", "up", "down"])


def test_places_of_another_model_object_are_refused():
    model = llama()
    places = find_places(copy.deepcopy(model), ATTENTION)
    with pytest.raises(UserError, match="belongs to another model object"):
        run(model, places=places)


def test_tokens_that_attend_to_later_ones_are_noticed_while_measuring():
    def bidirectional(model):
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        model.model.config.is_causal = False

    model = llama()
    places = find_places(model, ATTENTION)
    bidirectional(model)
    with pytest.raises(UserError, match="the last token of a sample influences earlier"):
        run(model, places=places)


@pytest.mark.parametrize("architecture", ["llama", "gemma3n_text", "gemma4_text", "gpt2", "dbrx"])
def test_memory_is_estimated_from_layers_of_any_shape(architecture):
    changes = VARIANTS["Gemma 4 E2B (shared keys and values)"][1]
    model = tiny_model(architecture, changes if architecture == "gemma4_text" else None)
    assert bytes_per_token(model) > 4 * 16 * 64 * 4


def test_a_refused_pass_leaves_no_hooks_behind():
    model = llama(twice)
    with pytest.raises(UserError):
        run(model)
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------- lengths


def norms(results):
    return [{k: v.sum() for k, v in r.spectra.items()} for r in results]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("Phi-3.5, Phi-4-mini (longrope)", [[0, 3], [1, 2]]),
        ("Llama, dynamic RoPE", [[0, 3], [1], [2]]),
    ],
)
def test_only_samples_that_are_treated_alike_share_a_batch(name, groups):
    model = tiny_model(*VARIANTS[name][:2]).requires_grad_(False)
    assert companies(model, [11, 37, 90, 32]) == groups
    places = find_places(model, ATTENTION)
    with pytest.raises(UserError, match="cannot share a batch"):
        gradient_factors(model, places, pad(SAMPLES, 0, torch.device("cpu")), "mean", print)


def test_sparse_attention_takes_samples_of_one_length():
    model = tiny_model("deepseek_v32")
    assert companies(model, [5, 9, 5]) == [[0, 2], [1]]
    assert companies(llama(), [5, 9, 5]) == [[0, 1, 2]]


def test_a_sample_does_not_depend_on_what_was_measured_before():
    name = "Llama, dynamic RoPE"
    fresh, used = (tiny_model(*VARIANTS[name][:2]).requires_grad_(False) for _ in range(2))
    one, long = (pad([s], 0, torch.device("cpu")) for s in (SAMPLES[1], SAMPLES[2]))
    measure(used, find_places(used, ATTENTION), ATTENTION, long)
    first = norms(measure(fresh, find_places(fresh, ATTENTION), ATTENTION, one))
    second = norms(measure(used, find_places(used, ATTENTION), ATTENTION, one))
    assert first == second


def test_cosines_of_samples_that_cannot_share_a_pass():
    apart = tiny_model(*VARIANTS["Phi-3.5, Phi-4-mini (longrope)"][:2]).requires_grad_(False)
    batch = pad([SAMPLES[0], sample(37, 9)], 0, torch.device("cpu"))
    found = cosines(apart, find_places(apart, ATTENTION), ATTENTION, batch, [(0, 1)])
    gradients = []
    for row in (0, 1):
        model = copy.deepcopy(apart).requires_grad_(True)
        ids = batch.ids[row : row + 1, : batch.lengths[row]]
        start = batch.starts[row]
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
        nn.functional.cross_entropy(logits, ids[0, start:]).backward()
        gradients.append(model.model.layers[2].self_attn.o_proj.weight.grad.double().flatten())
    expected = torch.cosine_similarity(*gradients, dim=0).item()
    assert np.isclose(found[2, "o"][0], expected, atol=1e-5)
