"""Which rows of which weights are q, k, v, o, gate, up and down, without the table of layouts.

Attention is watched while it runs: the function that transformers hands out for attention is
wrapped, and a weight's rows are those of q if they have a gradient from what arrives as the query.
The output projection is the first linear map after that call whose input depends on its result.
Attention that does not go through that function is written down in `BY_HAND` from each model's
forward code; separate modules are known by their names.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface
from transformers.pytorch_utils import Conv1D

# (layer, projection) -> (name of the module with the weight, its rows; None for all)
View = dict[tuple[int, str], tuple[str, Tensor | None]]

NAMES = {
    "q": r"(q_proj|q_b_proj|query|Wq)$",
    "k": r"(k_proj|key|Wk)$",
    "v": r"(v_proj|value|Wv)$",
    "o": r"(o_proj|out_proj|attn\.c_proj|dense|Wo)$",
    "gate": r"(gate_proj|feed_forward\.w1)$",
    "up": r"(up_proj|feed_forward\.w3|c_fc|fc1|fc_in|dense_h_to_4h|ffn\.0)$",
    "down": r"(down_proj|feed_forward\.w2|mlp\.c_proj|fc2|fc_out|dense_4h_to_h|ffn\.2"
    r"|shared_mlp\.output_linear|mlp\.Wo)$",
}
HALVES = r"(gate_up_proj|shared_mlp\.input_linear|mlp\.Wi)$"
FUSED = r"(query_key_value|qkv_proj|c_attn|Wqkv|in_proj_qkvz?)$"
ELSEWHERE = (
    r"vision|visual|audio|image|crossattention|cross_attn|encoder_attn|experts|indexer|\.mtp"
)


def expected(model: torch.nn.Module, ids: Tensor, projections: list[str]) -> View:
    """Return where the asked projections are in a model whose weights take gradients."""
    view: View = {}
    if set("qkvo") & set(projections):
        view |= _watched(model, ids)
        seen = {layer for layer, _ in view}
        named = _named(model, "qkvo", seen)
        # mixers without attention have an out_proj too
        view |= {(n, p): found for (n, p), found in named.items() if (n, "q") in named}
    if {"gate", "up", "down"} & set(projections):
        view |= _named(model, ["gate", "up", "down"], set())
    return {key: found for key, found in view.items() if key[1] in projections}


def layer_of(name: str) -> int | None:
    """Return the layer that a module's name says."""
    numbers = re.findall(r"\.(\d+)\.", f"{name}.")
    return int(numbers[0]) if numbers else None


@dataclass
class _Calls:
    """Attention calls and linear maps of one forward pass, in order."""

    attention: list[tuple[int, torch.nn.Module, dict[str, Tensor], Tensor]] = field(
        default_factory=list
    )
    linear: list[tuple[int, str, Tensor]] = field(default_factory=list)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock


@contextmanager
def _recorded(model: torch.nn.Module):
    calls = _Calls()
    original = AttentionInterface.get_interface

    def get_interface(self, implementation, default, *args, **kwargs):
        function = original(self, implementation, default, *args, **kwargs)

        def watched(module, query, key, value, *args, **kwargs):
            result = function(module, query, key, value, *args, **kwargs)
            parts = {"q": query, "k": key, "v": value}
            calls.attention.append((calls.tick(), module, parts, result[0]))
            return result

        return watched

    def hook(name):
        def record(_module, args):
            if args and isinstance(args[0], Tensor):
                calls.linear.append((calls.tick(), name, args[0]))

        return record

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if _matrix(module) is not None
    ]
    AttentionInterface.get_interface = get_interface
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = original
        for handle in handles:
            handle.remove()


def _matrix(module: torch.nn.Module) -> Tensor | None:
    weight = module._parameters.get("weight")
    return weight if weight is not None and weight.ndim == 2 else None


def _watched(model: torch.nn.Module, ids: Tensor) -> View:
    names = {module: name for name, module in model.named_modules()}
    with _recorded(model) as calls, torch.enable_grad():
        model(input_ids=ids, use_cache=False)
    view: View = {}
    for time, module, parts, result in calls.attention:
        layer = layer_of(names[module])
        order = {name: i for i, (_, name, _) in enumerate(calls.linear)}
        own = {
            name: _matrix(child)
            for name, child in ((names[c], c) for c in module.modules())
            if _matrix(child) is not None and name in order and not re.search(r"indexer|conv", name)
        }
        sources = {p: _source(tensor, own, order, model) for p, tensor in parts.items()}
        if sources["k"] is not None and _same(sources["k"], sources["v"]):
            sources["v"] = None  # keys that are the values: one projection, of the keys
        for projection, source in sources.items():
            if source is not None:
                view[layer, projection] = _union(view.get((layer, projection)), source)
        for at, name, inputs in calls.linear:
            if at > time and inputs.requires_grad and _depends(inputs, result):
                view[layer, "o"] = name, None
                break
    return view


def _source(tensor, own, order, model):
    """Return the last weight called that feeds a tensor, and those of its rows that do."""
    if not tensor.requires_grad or not own:
        return None
    seed = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)).to(tensor.dtype)
    gradients = torch.autograd.grad(
        (tensor * seed).sum(), list(own.values()), retain_graph=True, allow_unused=True
    )
    feeds = {n: g for n, g in zip(own, gradients, strict=True) if g is not None and g.any()}
    if not feeds:
        return None
    name = max(feeds, key=order.get)
    gradient = feeds[name]
    if isinstance(model.get_submodule(name), Conv1D):
        gradient = gradient.T
    rows = (gradient != 0).any(-1).nonzero().flatten()
    return name, None if len(rows) == len(gradient) else rows


def _union(one, other):
    """Join the rows of two calls of one block's attention, as of differential attention."""
    if one is None or None in (one[1], other[1]):
        return other
    return one[0], torch.cat([one[1], other[1]]).unique()


def _same(one, other) -> bool:
    if other is None or one[0] != other[0]:
        return False
    return one[1] is other[1] or (None not in (one[1], other[1]) and torch.equal(one[1], other[1]))


def _depends(inputs: Tensor, result: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(
        inputs.sum() + (inputs**2).sum(), result, retain_graph=True, allow_unused=True
    )
    return gradient is not None and bool(gradient.any())


def _named(model: torch.nn.Module, projections, seen: set[int]) -> View:
    view: View = {}
    for name, module in model.named_modules():
        layer, weight = layer_of(name), _matrix(module)
        if weight is None or layer in seen | {None} or re.search(ELSEWHERE, name):
            continue
        if "gate" in projections and re.search(HALVES, name):
            half = len(weight) // 2
            view[layer, "gate"] = name, torch.arange(half)
            view[layer, "up"] = name, torch.arange(half, 2 * half)
        if "q" in projections and re.search(FUSED, name):
            view |= {(layer, p): (name, rows) for p, rows in by_hand(model, name, weight).items()}
        for projection in projections:
            inside = "mlp" in name or "shared" in name if projection in "qkvo" else False
            if (
                re.search(NAMES[projection], name)
                and not inside
                and (layer, projection) not in view
            ):
                view[layer, projection] = name, None
    return view


def by_hand(model: torch.nn.Module, name: str, weight: Tensor) -> dict[str, Tensor]:
    """Return the rows of fused weights, as the forward code of each model splits its output."""
    config = model.config.get_text_config()
    rows = torch.arange(weight.shape[1 if isinstance(model.get_submodule(name), Conv1D) else 0])
    kind = config.model_type
    if kind == "falcon" and config.new_decoder_architecture:  # _split_heads, first branch
        group = config.num_attention_heads // config.num_kv_heads
        parts = rows.view(-1, group + 2, config.hidden_size // config.num_attention_heads)
        return _flat(parts[:, :-2], parts[:, -2], parts[:, -1])
    if kind == "falcon" and config.multi_query:  # _split_heads, last branch
        parts = rows.view(config.num_attention_heads + 2, -1)
        return _flat(parts[:-2], parts[-2], parts[-1])
    if kind in ("falcon", "bloom", "gpt_neox_japanese", "minimax"):  # per head, q, k, v
        parts = rows.view(config.num_attention_heads, 3, -1)
        return _flat(parts[:, 0], parts[:, 1], parts[:, 2])
    if kind == "codegen":  # _split_heads: mp_num 4; query, value, key
        parts = rows.view(4, 3, -1)
        return _flat(parts[:, 0], parts[:, 2], parts[:, 1])
    if kind in ("openai-gpt", "mpt", "gpt2"):  # split in thirds
        return dict(zip("qkv", rows.chunk(3), strict=True))
    if kind == "dbrx":  # Wqkv(x).split([hidden, kv, kv])
        keys = config.attn_config.kv_n_heads * (config.d_model // config.n_heads)
        return dict(zip("qkv", rows.split([config.d_model, keys, keys]), strict=True))
    if name.endswith("in_proj_qkv"):  # torch.split([key_dim, key_dim, value_dim])
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        return {"q": rows[:keys], "k": rows[keys : 2 * keys], "v": rows[2 * keys :]}
    if name.endswith("in_proj_qkvz"):  # fix_query_key_value_ordering
        width = config.linear_key_head_dim
        values = config.linear_num_value_heads // config.linear_num_key_heads
        end = 2 * width + values * config.linear_value_head_dim
        parts = rows.view(config.linear_num_key_heads, -1)
        return _flat(parts[:, :width], parts[:, width : 2 * width], parts[:, 2 * width : end])
    raise NotImplementedError(f"{kind}: nobody has written down how {name} is split")


def _flat(*parts: Tensor) -> dict[str, Tensor]:
    return {p: rows.flatten() for p, rows in zip("qkv", parts, strict=True)}
