"""Where the projections are in a model: one table of layouts, no names of models.

Architectures differ in which modules hold the projections and in how a fused module's output is
split. The gradient of a projection is D^T X with the fused module's input X and the columns of its
output gradient D that belong to the projection, so a split of the output is all that is needed.

A new architecture is one entry of `ATTENTION` or `MLP`, and a split function if it fuses in a new
way. A layer may also have no attention at all (state-space and convolution layers of hybrids): such
layers are left out and named by :func:`coverage`. A layer that is neither is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layergrad.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PretrainedConfig, PreTrainedModel

# Splits the last axis of a fused module's output by the configuration of its layer.
Split = Callable[["Tensor", "PretrainedConfig"], list["Tensor"]]


@dataclass(frozen=True)
class Holder:
    """A module, by the end of its name inside a layer, and what its output holds, in order.

    `parts` are names of projections; None is something else, such as the gate of an output.
    """

    suffix: str
    parts: tuple[str | None, ...]
    split: Split | None = None


@dataclass(frozen=True)
class Block:
    """An attention block or an MLP that has every module of a layout."""

    module: Module
    held: list[Module]
    config: PretrainedConfig


@dataclass(frozen=True)
class Layout:
    """Modules that hold the projections of a block; `when` decides between equal names."""

    holders: tuple[Holder, ...]
    when: Callable[[Block], bool] | None = None


@dataclass(frozen=True)
class Place:
    """One module of a loaded model: its layer, what it holds, and how its output splits.

    `divide` turns the output, or its gradient, ``(..., out)`` into one tensor per projection.
    Places of one layer with the same `group` usually read the same input and are handed on
    together.
    """

    name: str
    module: Module
    layer: int
    group: str
    projections: tuple[str, ...]
    divide: Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Coverage:
    """Which layers of a model have which of the asked projections.

    Attributes
    ----------
    layers
        Number of layers of the model.
    found
        Layer -> the asked projections it has; layers that have none are not listed.
    absent
        Layer -> what it has instead of the asked projections that it lacks.
    projections
        What was asked for.
    """

    layers: int
    found: dict[int, tuple[str, ...]]
    absent: dict[int, str]
    projections: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every layer has every asked projection."""
        return not self.absent

    def describe(self) -> str:
        """Say in one line which layers are measured and which lack what, and why."""
        if self.complete:
            return f"{', '.join(self.projections)} in all {self.layers} layers"
        groups: dict[tuple[tuple[str, ...], str], list[int]] = {}
        for layer in range(self.layers):
            has = self.found.get(layer, ())
            groups.setdefault((has, self.absent.get(layer, "")), []).append(layer)
        sentences = []
        for (has, instead), layers in groups.items():
            what = ", ".join(has) or "none"
            sentences.append(f"{what} in {_ranges(layers)}" + (f" ({instead})" if instead else ""))
        return f"{self.layers} layers: " + "; ".join(sentences)


# Splits. `rows` below are the rows of the fused weight, which are the columns of its output.


def _heads(config: PretrainedConfig) -> tuple[int, int]:
    """Return the number of query heads and the width of a head."""
    query = config.num_attention_heads
    return query, getattr(config, "head_dim", None) or config.hidden_size // query


def _key_heads(output: Tensor, config: PretrainedConfig) -> int:
    """Return the key heads of fused rows; flags and names of configurations differ, rows do not."""
    query, width = _heads(config)
    return (output.shape[-1] // width - query) // 2


def _concatenated(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [q | k | v] (GPT-2, Phi-3, MPT, DBRX)."""
    query, width = _heads(config)
    keys = _key_heads(output, config) * width
    return list(output.split([query * width, keys, keys], dim=-1))


def _grouped(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [queries..., key, value] per key head (GPT-NeoX, Falcon, Bloom).

    With as many key heads as query heads this is [q, k, v] per head, with one key head it is
    multi-query attention.
    """
    query, width = _heads(config)
    groups = _key_heads(output, config)
    grouped = output.unflatten(-1, (groups, query // groups + 2, width))
    q, k, v = grouped.split([query // groups, 1, 1], dim=-2)
    return [part.flatten(-3) for part in (q, k, v)]


def _four_cores(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [q | v | k] on each of the four cores that CodeGen was trained on."""
    q, v, k = output.unflatten(-1, (4, 3, -1)).unbind(-2)
    return [part.flatten(-2) for part in (q, k, v)]


def _with_gate(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [query, gate of the attention's output] per head (Qwen3-Next, Qwen3.5)."""
    q, gate = output.unflatten(-1, (config.num_attention_heads, 2, -1)).unbind(-2)
    return [q.flatten(-2), gate.flatten(-2)]


def _latent(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [key without position, value] per head, from the shared latent (DeepSeek V2 and V3)."""
    sizes = [config.qk_nope_head_dim, config.v_head_dim]
    k, v = output.unflatten(-1, (-1, sum(sizes))).split(sizes, dim=-1)
    return [k.flatten(-2), v.flatten(-2)]


def _delta(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [q | k | v] of a gated delta net (Qwen3.5)."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    return list(output.split([keys, keys, output.shape[-1] - 2 * keys], dim=-1))


def _delta_grouped(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [q, k, values..., gates...] per key head of a gated delta net (Qwen3-Next)."""
    heads, width = config.linear_num_key_heads, config.linear_key_head_dim
    value = config.linear_num_value_heads // heads * config.linear_value_head_dim
    parts = output.unflatten(-1, (heads, -1)).split([width, width, value, value], dim=-1)
    return [part.flatten(-2) for part in parts]


def _halves(output: Tensor, config: PretrainedConfig) -> list[Tensor]:
    """Split [gate | up] (Phi-3)."""
    return list(output.chunk(2, dim=-1))


# Conditions between layouts of equal names.


def _query_has_gate(block: Block) -> bool:
    """Twice as many query rows as the output projection reads: half of them are a gate."""
    return _outputs(block.held[0]) == 2 * _inputs(block.held[-1]) > 0


def _one_key_per_head(block: Block) -> bool:
    """GPTBigCode without multi-query attention, which fuses per head."""
    return getattr(block.config, "multi_query", True) is False


def _nothing_else(block: Block) -> bool:
    """No further weight matrix in the block, so that nothing else can make keys or values."""
    held = {id(p) for module in block.held for p in module.parameters()}
    return all(p.ndim < 2 or id(p) in held for p in block.module.parameters())


def _separate(q: str, k: str, v: str, o: str, **when: Callable[[Block], bool]) -> Layout:
    names = zip((q, k, v, o), "qkvo", strict=True)
    return Layout(tuple(Holder(name, (p,)) for name, p in names if name), **when)


def _fused(name: str, split: Split, o: str, **when: Callable[[Block], bool]) -> Layout:
    return Layout((Holder(name, ("q", "k", "v"), split), Holder(o, ("o",))), **when)


def _mlp(gate: str, up: str, down: str) -> Layout:
    names = zip((gate, up, down), ("gate", "up", "down"), strict=True)
    return Layout(tuple(Holder(name, (p,)) for name, p in names if name))


def _fused_mlp(name: str, down: str) -> Layout:
    return Layout((Holder(name, ("gate", "up"), _halves), Holder(down, ("down",))))


_GATED = (Holder("q_proj", ("q", None), _with_gate), Holder("k_proj", ("k",)))
_GATED += (Holder("v_proj", ("v",)), Holder("o_proj", ("o",)))
_KEY_VALUE = Holder("kv_b_proj", ("k", "v"), _latent)
_DELTA = (Holder("in_proj_qkvz", ("q", "k", "v", None), _delta_grouped), Holder("out_proj", ("o",)))

# The first layout that fits exactly one block of a layer is used. Names are ends of module names,
# all below the same module.
ATTENTION = (
    Layout(_GATED, _query_has_gate),
    _separate("q_proj", "k_proj", "v_proj", "o_proj"),
    _separate("q_proj", "k_proj", "v_proj", "out_proj"),
    _separate("q_proj", "k_proj", "v_proj", "dense"),
    _separate("q_proj", "k_proj", "v_proj", "Wo"),
    _separate("Wq", "Wk", "Wv", "dense"),
    _separate("attention.self.query", "attention.self.key", "attention.self.value",
              "attention.output.dense"),
    # decoders that also have cross-attention, which a text alone does not use
    _separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    Layout((Holder("q_b_proj", ("q",)), _KEY_VALUE, Holder("o_proj", ("o",)))),
    Layout((Holder("q_proj", ("q",)), _KEY_VALUE, Holder("o_proj", ("o",)))),
    _fused("self_attn.qkv_proj", _concatenated, "self_attn.o_proj"),
    _fused("self_attn.qkv_proj", _grouped, "self_attn.out_proj"),
    _fused("attn.c_attn", _grouped, "attn.c_proj", when=_one_key_per_head),
    _fused("attn.c_attn", _concatenated, "attn.c_proj"),
    _fused("attn.qkv_proj", _four_cores, "attn.out_proj"),
    _fused("attn.Wqkv", _concatenated, "attn.out_proj"),
    _fused("query_key_value", _grouped, "dense"),
    _fused("linear_attn.in_proj_qkv", _delta, "linear_attn.out_proj"),
    Layout(_DELTA),
    # keys that are also the values, or keys and values of an earlier layer (Gemma 3n and 4)
    _separate("q_proj", "k_proj", "", "o_proj", when=_nothing_else),
    _separate("q_proj", "", "", "o_proj", when=_nothing_else),
)  # fmt: skip
MLP = (
    _mlp("gate_proj", "up_proj", "down_proj"),
    _mlp("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    _mlp("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
    _fused_mlp("mlp.gate_up_proj", "mlp.down_proj"),
    _fused_mlp("shared_mlp.input_linear", "shared_mlp.output_linear"),
    _fused_mlp("mlp.Wi", "mlp.Wo"),
    _mlp("", "up_proj", "down_proj"),
    _mlp("", "mlp.c_fc", "mlp.c_proj"),
    _mlp("", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    _mlp("", "fc1", "fc2"),
    _mlp("", "mlp.fc_in", "mlp.fc_out"),
    _mlp("", "ffn.0", "ffn.2"),
)
ATTENTION_PROJECTIONS = ("q", "k", "v", "o")
MLP_PROJECTIONS = ("gate", "up", "down")
GROUPS = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "in", "up": "in", "down": "down"}

# What a layer may consist of, by the classes of its children, if it has no attention or no MLP.
# Anything else with weights might be one under an unknown name.
_MIXERS = r"mamba|bamba|mixer|conv|recurrent|rglru|rwkv|lstm"
WITHOUT_ATTENTION = re.compile(
    rf"^(?!.*(attention|attn)).*({_MIXERS}|mlp|moe|feedforward|norm)|rwkv", re.I
)
WITHOUT_MLP = re.compile(
    rf"^(?!.*(mlp|moe|feedforward)).*({_MIXERS}|attention|deltanet|norm)", re.I
)
# Parts of a multimodal model that no text passes through.
TOWERS = re.compile(r"vision|visual|audio|image|speech|talker|vqmodel", re.I)


def find_places(model: PreTrainedModel, projections: Iterable[str]) -> list[Place]:
    """Find the modules that hold the asked projections in every layer of a model.

    Returns
    -------
    list of Place
        Ordered by layer. A module is listed if it holds at least one asked projection; its other
        projections are named too, since its output splits into all of them. Layers without
        attention (or MLP) are left out; :func:`coverage` names them.

    Raises
    ------
    UserError
        If some layer matches no layout and is no known layer without the projections; if no layer
        has some asked projection; if layers share a weight, or attention sees later tokens.
    """
    return _survey(model, tuple(projections))[0]


def coverage(model: PreTrainedModel, projections: Iterable[str]) -> Coverage:
    """Return which layers have which of the asked projections; errors as :func:`find_places`."""
    return _survey(model, tuple(projections))[1]


def _survey(model: PreTrainedModel, projections: tuple[str, ...]) -> tuple[list[Place], Coverage]:
    _refuse_bidirectional(model.config)
    places: list[Place] = []
    found: dict[int, tuple[str, ...]] = {}
    absent: dict[int, str] = {}
    layers = decoder_layers(model)
    for index, name, layer in layers:
        here = _places_of_layer(model, index, name, layer, projections)
        held = {p for place in here for p in place.projections}
        places += here
        has = tuple(p for p in projections if p in held)
        if has:
            found[index] = has
        if len(has) < len(projections):
            absent[index] = _instead(layer, held, projections)
    surveyed = Coverage(len(layers), found, absent, projections)
    _refuse_nowhere(model, surveyed)
    _refuse_shared(model, places)
    return places, surveyed


def _places_of_layer(
    model: PreTrainedModel, index: int, name: str, layer: Module, projections: tuple[str, ...]
) -> list[Place]:
    config = layer_config(model.config, index)
    matched: list[tuple[Holder, str, Module]] = []
    if set(ATTENTION_PROJECTIONS) & set(projections):
        matched += _match(ATTENTION, layer, name, config, "attention", WITHOUT_ATTENTION)
    if set(MLP_PROJECTIONS) & set(projections):
        _refuse_experts(layer, name)
        matched += _match(MLP, layer, name, config, "MLP", WITHOUT_MLP)
    return [
        _place(holder, f"{name}.{suffix}", module, index, config)
        for holder, suffix, module in matched
        if set(holder.parts) & set(projections)
    ]


def _match(
    layouts: tuple[Layout, ...],
    layer: Module,
    name: str,
    config: PretrainedConfig,
    what: str,
    known: re.Pattern[str],
) -> list[tuple[Holder, str, Module]]:
    """Return (holder, name in the layer, module) of the first layout that fits, or nothing."""
    modules = dict(layer.named_modules())
    for layout in layouts:
        blocks = list(_blocks(layout, modules, config))
        if len(blocks) == 1:
            return blocks[0]
    children = [(n, c) for n, c in layer.named_children() if _has_matrix(c)]
    if all(known.search(type(child).__name__) for _, child in children):
        return []
    names = ", ".join(sorted(n for n, m in modules.items() if n and not list(m.children())))
    raise UserError(
        f"no known {what} layout fits {name} ({type(layer).__name__}); its modules are: {names}. "
        "A new layout is one entry in layergrad/models/layouts.py"
    )


def _blocks(
    layout: Layout, modules: dict[str, Module], config: PretrainedConfig
) -> Iterable[list[tuple[Holder, str, Module]]]:
    """Yield the modules of every block of a layer that has all that a layout names."""
    first = layout.holders[0].suffix
    for name in modules:
        base = name[: len(name) - len(first)]
        if not name.endswith(first) or (base and not base.endswith(".")):
            continue
        names = [base + holder.suffix for holder in layout.holders]
        if not all(n in modules for n in names):
            continue
        inner = [_unwrapped(n, modules[n]) for n in names]
        block = Block(modules[base.rstrip(".")], [module for _, module in inner], config)
        if layout.when is None or layout.when(block):
            yield [(h, n, m) for h, (n, m) in zip(layout.holders, inner, strict=True)]


def _unwrapped(name: str, module: Module) -> tuple[str, Module]:
    """Return the one linear map inside a wrapper, which is hooked itself (Moshi)."""
    inside = [(n, child) for n, child in module.named_children() if _has_matrix(child)]
    if hasattr(module, "weight") or len(inside) != 1:
        return name, module
    return _unwrapped(f"{name}.{inside[0][0]}", inside[0][1])


def _place(
    holder: Holder, name: str, module: Module, layer: int, config: PretrainedConfig
) -> Place:
    _check_split(holder, name, module, config)

    def divide(output: Tensor) -> list[Tensor]:
        if holder.split is None:
            return [output]
        parts = zip(holder.parts, holder.split(output, config), strict=True)
        return [part for projection, part in parts if projection is not None]

    projections = tuple(p for p in holder.parts if p is not None)
    return Place(name, module, layer, GROUPS[projections[0]], projections, divide)


def _check_split(holder: Holder, name: str, module: Module, config: PretrainedConfig) -> None:
    """Check that a module is one linear map, and that its split gives each row to one part."""
    import torch

    # quantised weights are packed into other shapes, but know their number of outputs
    if getattr(getattr(module, "weight", None), "ndim", 0) != 2 and not hasattr(
        module, "out_features"
    ):
        raise UserError(
            f"{name} is a {type(module).__name__}, not one linear map: its gradient is not that of "
            "one weight, which is not covered"
        )
    if holder.split is None:
        return
    rows = torch.arange(_outputs(module))
    try:
        parts = holder.split(rows, config)
        exact = torch.equal(torch.cat(parts).sort().values, rows)
    except (RuntimeError, ZeroDivisionError, AttributeError) as error:
        parts, exact = str(error), False
    if not exact or len(parts) != len(holder.parts):
        raise UserError(
            f"{name}: its {len(rows)} rows do not divide into {', '.join(map(str, holder.parts))} "
            "as the model's configuration says"
        )


def _instead(layer: Module, held: set[str], projections: tuple[str, ...]) -> str:
    """Say what a layer has instead of asked projections."""
    if not held:
        kinds = {type(child).__name__ for child in layer.children() if _has_matrix(child)}
        mixers = {kind for kind in kinds if re.search(_MIXERS, kind, re.I)}
        return ", ".join(sorted(mixers or kinds)) or type(layer).__name__
    missing = [p for p in projections if p not in held]
    return f"no {', '.join(missing)} of its own"


def _refuse_nowhere(model: PreTrainedModel, surveyed: Coverage) -> None:
    name, asked = type(model).__name__, surveyed.projections
    held = {p for has in surveyed.found.values() for p in has}
    missing = [p for p in asked if p not in held]
    if "q" in asked and not held:
        kinds = ", ".join(sorted(set(surveyed.absent.values())))
        raise UserError(
            f"{name} has no attention: its {surveyed.layers} layers are made of {kinds}"
        )
    if missing:
        raise UserError(
            f"{name} has no projection {', '.join(missing)} in any layer; of those asked it has "
            + (", ".join(p for p in asked if p in held) or "none")
        )


def _refuse_shared(model: PreTrainedModel, places: list[Place]) -> None:
    """Refuse weights that several modules use: their gradient is a sum over all uses."""
    names = {id(module): name for name, module in model.named_modules()}
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(module))
    seen: dict[int, str] = {}
    for place in places:
        weight = id(getattr(place.module, "weight", place.module))
        others = [names[m] for m in owners.get(weight, set()) if m != id(place.module)]
        others += [seen[weight]] if weight in seen else []
        if others:
            raise UserError(
                f"{place.name} and {others[0]} share one weight: its gradient is a sum over both, "
                "which is not the gradient of one layer"
            )
        seen[weight] = place.name


def _refuse_bidirectional(config: PretrainedConfig) -> None:
    """Refuse attention to later tokens, which would also see other samples' padding."""
    for settings in (config, text_config(config)):
        both_ways = getattr(settings, "use_bidirectional_attention", None)
        for key, bad in (
            ("is_causal", getattr(settings, "is_causal", None) is False),
            # "vision" is for images alone
            ("use_bidirectional_attention", both_ways is True or both_ways == "all"),
        ):
            if bad:
                raise UserError(
                    f"the model's config.json says {key}: {getattr(settings, key)!r}: its tokens "
                    "attend to later ones, so the loss of a next token is not defined for it"
                )


def _refuse_experts(layer: Module, name: str) -> None:
    experts = sorted(n for n, m in layer.named_modules() if "experts" in n and _has_matrix(m))
    if experts:
        raise UserError(
            f"{name} routes tokens to experts ({experts[0]}): gradients of gate, up and down are "
            "not defined per layer there; ask for q, k, v, o only"
        )


def decoder_layers(model: PreTrainedModel) -> list[tuple[int, str, Module]]:
    """Return (index, name, module) of the decoder layers of a model's language part.

    They are the outermost list of as many modules as the configuration says; encoders of images and
    sounds are passed over.
    """
    count = layer_count(model.config)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__ == "ModuleList"
        and len(module) == count
        and not TOWERS.search(name)
    ]
    if not lists:
        raise UserError(
            f"{type(model).__name__}: no list of {count} layers found; modules: "
            + ", ".join(name for name, _ in model.named_children())
        )

    def depth_and_size(found: tuple[str, Module]) -> tuple[int, int]:
        name, module = found
        return name.count("."), -sum(p.numel() for p in module.parameters())

    name, layers = min(lists, key=depth_and_size)
    return [(i, f"{name}.{i}", layer) for i, layer in enumerate(layers)]


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the language part of a model."""
    return config.get_text_config()


def layer_count(config: PretrainedConfig) -> int:
    """Return the number of layers of the language part, of its decoder if it has two parts."""
    config = text_config(config)
    count = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", None)
    if count is None:
        raise UserError(f"{type(config).__name__} names no number of layers; it is not covered")
    return count


def layer_config(config: PretrainedConfig, index: int) -> PretrainedConfig:
    """Return the configuration of one layer: layers may differ in heads and widths (Gemma 4)."""
    config = text_config(config)
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def _has_matrix(module: Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters())


def _outputs(module: Module) -> int:
    for name in ("out_features", "nf"):  # Conv1D stores its weight as (in, out)
        if hasattr(module, name):
            return getattr(module, name)
    return module.weight.shape[0] if hasattr(module, "weight") else 0


def _inputs(module: Module) -> int:
    for name in ("in_features", "nx"):
        if hasattr(module, name):
            return getattr(module, name)
    return module.weight.shape[-1] if hasattr(module, "weight") else 0


def _ranges(layers: list[int]) -> str:
    """Write layers as ranges: 0-2, 5."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
