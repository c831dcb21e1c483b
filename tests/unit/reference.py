"""Spectra the slow way: float64 autograd on the weights, one sample at a time, full SVD."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from layergrad.models.encode import Encoded


def head_layout(config) -> tuple[int, int, int]:
    """Return query heads, key heads and the width of a head."""
    query = config.num_attention_heads
    key_value = getattr(config, "num_key_value_heads", None) or query
    if config.model_type == "falcon":
        one = 1 if config.multi_query else query
        key_value = config.num_kv_heads if config.new_decoder_architecture else one
    return query, key_value, getattr(config, "head_dim", None) or config.hidden_size // query


def reference_spectra(model, samples: list[Encoded], parts, reduction: str = "mean"):
    """Return (losses, [{(layer, projection): singular values}]) in float64.

    `parts(model)` lists (layer, projection, parameter, view), where the view turns the parameter's
    gradient into the projection's, shape (out, in). Nothing here comes from the engine.
    """
    model = copy.deepcopy(model).double().requires_grad_(True)
    if "moe" in model.config.model_type or model.config.model_type == "mixtral":
        model.set_experts_implementation("eager")  # the fused kernel knows no float64
    losses, spectra = [], []
    for sample in samples:
        model.zero_grad()
        ids = torch.tensor([sample.ids])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        predicted = logits[sample.start - 1 : -1]
        loss = functional.cross_entropy(predicted, ids[0, sample.start :], reduction=reduction)
        loss.backward()
        losses.append(loss.item() / (1 if reduction == "mean" else sample.response_tokens))
        spectra.append(
            {
                (layer, projection): torch.linalg.svdvals(view(parameter.grad))
                for layer, projection, parameter, view in parts(model)
            }
        )
    return losses, spectra


def separate(names: dict[str, str], layers: str = "model.layers"):
    """Projections in modules of their own: projection -> module name inside a layer."""

    def parts(model):
        for i, layer in enumerate(model.get_submodule(layers)):
            for projection, name in names.items():
                yield i, projection, layer.get_submodule(name).weight, lambda g: g

    return parts


LLAMA = separate(
    {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
)
LLAMA_ATTENTION = separate({p: f"self_attn.{p}_proj" for p in "qkvo"})


def phi3(model):
    """[q | k | v] and [gate | up] by rows."""
    query, key_value, width = head_layout(model.config)
    q, kv = query * width, key_value * width
    for i, layer in enumerate(model.model.layers):
        fused = layer.self_attn.qkv_proj.weight
        yield i, "q", fused, lambda g: g[:q]
        yield i, "k", fused, lambda g: g[q : q + kv]
        yield i, "v", fused, lambda g: g[q + kv :]
        yield i, "o", layer.self_attn.o_proj.weight, lambda g: g
        both = layer.mlp.gate_up_proj.weight
        yield i, "gate", both, lambda g: g[: len(g) // 2]
        yield i, "up", both, lambda g: g[len(g) // 2 :]
        yield i, "down", layer.mlp.down_proj.weight, lambda g: g


def gpt2(model):
    """Conv1D weights are (in, out): columns are outputs."""
    for i, layer in enumerate(model.transformer.h):
        fused = layer.attn.c_attn.weight
        for j, projection in enumerate("qkv"):
            yield i, projection, fused, lambda g, j=j: g.chunk(3, dim=1)[j].T
        yield i, "o", layer.attn.c_proj.weight, lambda g: g.T
        yield i, "up", layer.mlp.c_fc.weight, lambda g: g.T
        yield i, "down", layer.mlp.c_proj.weight, lambda g: g.T


def _interleaved(layers: str, attention: str):
    def parts(model):
        query, key_value, width = head_layout(model.config)
        per_group = query // key_value + 2
        for i, layer in enumerate(model.get_submodule(layers)):
            block = layer.get_submodule(attention)
            fused = block.query_key_value.weight

            def rows(g, start, stop):
                groups = g.reshape(key_value, per_group * width, -1)
                return groups[:, start * width : stop * width].flatten(0, 1)

            yield i, "q", fused, lambda g: rows(g, 0, per_group - 2)
            yield i, "k", fused, lambda g: rows(g, per_group - 2, per_group - 1)
            yield i, "v", fused, lambda g: rows(g, per_group - 1, per_group)
            yield i, "o", block.dense.weight, lambda g: g
            yield i, "up", layer.mlp.dense_h_to_4h.weight, lambda g: g
            yield i, "down", layer.mlp.dense_4h_to_h.weight, lambda g: g

    return parts


gpt_neox = _interleaved("gpt_neox.layers", "attention")
falcon = _interleaved("transformer.h", "self_attention")
