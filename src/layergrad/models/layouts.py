"""Where the projections are in a model: one small table of layouts, no names of models.

Architectures differ in which modules hold the projections and in how a fused module's output is
split. The gradient of a projection is D^T X with the fused module's input X and the columns of its
output gradient D that belong to the projection, so a split of the output is all that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layergrad.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PretrainedConfig, PreTrainedModel

Split = Callable[["Tensor", "Heads"], list["Tensor"]]


@dataclass(frozen=True)
class Heads:
    """Head layout of an attention block: query heads, key and value heads, width of a head."""

    query: int
    key_value: int
    width: int


@dataclass(frozen=True)
class Holder:
    """A module, by the end of its name inside a layer, and the projections it holds, in order."""

    suffix: str
    projections: tuple[str, ...]
    split: Split | None = None


@dataclass(frozen=True)
class Place:
    """One module of a loaded model: its layer, what it holds, and how its output splits.

    Places of one layer whose `group` is equal read the same input.
    """

    name: str
    module: Module
    layer: int
    group: str
    projections: tuple[str, ...]
    divide: Callable[[Tensor], list[Tensor]]


def _concatenated(output: Tensor, heads: Heads) -> list[Tensor]:
    """Split [q | k | v] along the last axis (GPT-2, Phi-3)."""
    sizes = [heads.query, heads.key_value, heads.key_value]
    return list(output.split([size * heads.width for size in sizes], dim=-1))


def _grouped(output: Tensor, heads: Heads) -> list[Tensor]:
    """Split groups of [queries..., key, value], one group a key head (GPT-NeoX, Falcon).

    With as many key heads as query heads this is the per-head interleaving of GPT-NeoX, with one
    key head it is multi-query attention.
    """
    per_group = heads.query // heads.key_value
    grouped = output.unflatten(-1, (heads.key_value, per_group + 2, heads.width))
    q, k, v = grouped.split([per_group, 1, 1], dim=-2)
    return [part.flatten(-3) for part in (q, k, v)]


def _halves(output: Tensor, heads: Heads) -> list[Tensor]:
    """Split [gate | up] in two halves (Phi-3)."""
    return list(output.chunk(2, dim=-1))


_QKV = (Holder("q_proj", ("q",)), Holder("k_proj", ("k",)), Holder("v_proj", ("v",)))


def _fused(name: str, split: Split) -> Holder:
    return Holder(name, ("q", "k", "v"), split)


def _output(name: str) -> Holder:
    return Holder(name, ("o",))


# An attention block uses the first layout whose every holder is in the layer; so does an MLP.
ATTENTION = (
    (*_QKV, _output("o_proj")),
    (*_QKV, _output("out_proj")),
    (_fused("self_attn.qkv_proj", _concatenated), _output("self_attn.o_proj")),
    (_fused("attn.c_attn", _concatenated), _output("attn.c_proj")),
    (_fused("attention.query_key_value", _grouped), _output("attention.dense")),
    (_fused("self_attention.query_key_value", _grouped), _output("self_attention.dense")),
)
_UP, _DOWN = ("up",), ("down",)
MLP = (
    (
        Holder("mlp.gate_proj", ("gate",)),
        Holder("mlp.up_proj", _UP),
        Holder("mlp.down_proj", _DOWN),
    ),
    (Holder("mlp.gate_up_proj", ("gate", "up"), _halves), Holder("mlp.down_proj", _DOWN)),
    (Holder("mlp.c_fc", _UP), Holder("mlp.c_proj", _DOWN)),
    (Holder("mlp.dense_h_to_4h", _UP), Holder("mlp.dense_4h_to_h", _DOWN)),
)
GROUPS = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "in", "up": "in", "down": "down"}
ATTENTION_PROJECTIONS = {"q", "k", "v", "o"}


def find_places(model: PreTrainedModel, projections: list[str]) -> list[Place]:
    """Find the modules that hold the asked projections in every layer of a model.

    Returns
    -------
    list of Place
        Ordered by layer. A module is listed if it holds at least one asked projection; its other
        projections are named too, since its output splits into all of them.

    Raises
    ------
    UserError
        If some layer matches no layout, or a projection does not exist in it; the message lists
        the modules of the first such layer.
    """
    heads = head_layout(model.config)
    places = []
    for index, name, layer in decoder_layers(model):
        modules = {n: m for n, m in layer.named_modules() if n}
        found: list[tuple[Holder, str]] = []
        if ATTENTION_PROJECTIONS & set(projections):
            found += _match(ATTENTION, modules, name, "attention")
        if set(projections) - ATTENTION_PROJECTIONS:
            _refuse_experts(modules, name)
            found += _match(MLP, modules, name, "MLP")
        held = {p for holder, _ in found for p in holder.projections}
        if set(projections) - held:
            missing = ", ".join(sorted(set(projections) - held))
            raise UserError(f"{name} has no projection {missing}; it has {', '.join(sorted(held))}")
        for holder, module_name in found:
            if set(holder.projections) & set(projections):
                places.append(
                    _place(holder, f"{name}.{module_name}", modules[module_name], index, heads)
                )
    return places


def _place(holder: Holder, name: str, module: Module, layer: int, heads: Heads) -> Place:
    def divide(output: Tensor) -> list[Tensor]:
        return [output] if holder.split is None else holder.split(output, heads)

    group = GROUPS[holder.projections[0]]
    return Place(name, module, layer, group, holder.projections, divide)


def _match(
    layouts: tuple[tuple[Holder, ...], ...], modules: dict[str, Module], layer: str, what: str
) -> list[tuple[Holder, str]]:
    for layout in layouts:
        matches = [
            [
                name
                for name in modules
                if name == holder.suffix or name.endswith(f".{holder.suffix}")
            ]
            for holder in layout
        ]
        if all(len(names) == 1 for names in matches):
            return [(holder, names[0]) for holder, names in zip(layout, matches, strict=True)]
    names = ", ".join(sorted(n for n, m in modules.items() if not list(m.children())))
    raise UserError(
        f"no known {what} layout fits {layer}; its modules are: {names}. A new layout is one entry "
        "in layergrad/models/layouts.py"
    )


def _refuse_experts(modules: dict[str, Module], layer: str) -> None:
    experts = sorted(name for name in modules if re.search(r"(^|\.)(experts|gate$|router)", name))
    if any("experts" in name for name in experts):
        raise UserError(
            f"{layer} routes tokens to experts ({experts[0]}, ...): gradients of gate, up and down "
            "are not defined per layer there; ask for q, k, v, o only"
        )


def decoder_layers(model: PreTrainedModel) -> list[tuple[int, str, Module]]:
    """Return (index, name, module) of the decoder layers, found by their number."""
    count = text_config(model.config).num_hidden_layers
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__ == "ModuleList" and len(module) == count
    ]
    if not lists:
        raise UserError(
            f"{type(model).__name__}: no list of {count} layers found; modules: "
            + ", ".join(name for name, _ in model.named_children())
        )
    name, layers = min(lists, key=lambda found: found[0].count("."))
    return [(i, f"{name}.{i}", layer) for i, layer in enumerate(layers)]


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the language part of a model."""
    return config.get_text_config()


def head_layout(config: PretrainedConfig) -> Heads:
    """Return the head layout that a configuration describes."""
    config = text_config(config)
    query = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // query
    key_value = getattr(config, "num_key_value_heads", None) or query
    if config.model_type == "falcon":  # its fused layout depends on two flags, not on the number
        if config.new_decoder_architecture:
            key_value = config.num_kv_heads
        else:
            key_value = 1 if config.multi_query else query
    return Heads(query, key_value, width)
