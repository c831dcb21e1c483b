"""Checks of one model before its cells are measured.

A verdict is about the model and must not depend on any dataset: the checks use fixed sequences of
tokens. Each compares the engine with something that shares no code with it, or a sample with itself
in other company. A check that fails stops the model's cells. What depends on a sample is decided
where that sample is written as tokens or measured.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layergrad.errors import UserError
from layergrad.models.encode import Encoded, Encoder, SampleError
from layergrad.models.layouts import Place, find_places, text_config
from layergrad.spectra.autograd import Truth, singular_values, true_gradients
from layergrad.spectra.batches import pad
from layergrad.spectra.capture import gradient_factors
from layergrad.spectra.extract import Extractor, is_out_of_memory
from layergrad.spectra.limits import Failed, Limits
from layergrad.spectra.measure import Measured, measure

# Largest relative difference of a nuclear norm or a loss between a sample alone and in a padded
# batch. In bfloat16 another batch shape takes other kernels, which round differently.
# Spectra are float32, which rounds a norm by 1e-7.
INVARIANCE = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 1e-1}
# Largest relative difference of a norm between the engine and autograd. Both run the same forward
# pass, so what differs is the rounding of D^T X: 1e-7 of the largest value in float32, whose small
# gradients are differences of large numbers; 4e-3 in bfloat16, in which autograd keeps a weight's
# gradient while the engine multiplies its factors in float64. A wrong split, input or position
# moves norms by more than 5 %. Engine results are stored in float32: 6e-8.
AGREEMENT = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 4e-2}
# What is this small beside the largest norm of the sample is rounding: a gradient that vanishes.
VANISHING = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-2}

INSTRUCTION = "Name the largest planet of the solar system, and how many moons it has."
RESPONSE = (
    "The largest planet is Jupiter, a ball of hydrogen and helium around which 95 known moons "
    "travel. Four of them, seen by Galileo in 1610, are as large as small planets: Io has "
    "volcanoes, Europa an ocean under ice, Ganymede a magnetic field of its own and Callisto "
    "more craters than any other body."
)
# Tokens of the built-in samples. 23 is no number of heads, experts or channels: attention is
# recognised by scores of T x T.
SHORT, MIDDLE, LONG = 9, 23, 61
# A sample beyond the length at which RoPE changes is measured only up to these many tokens: beyond,
# positions alone are moved there, which costs nothing.
AFFORDABLE = {"cpu": 512, "cuda": 8192}


@dataclass(frozen=True)
class Check:
    """Outcome of one check: `status` is ``passed``, ``failed`` or ``noted`` (told, not judged)."""

    name: str
    status: str
    detail: str
    value: float | None = None
    limit: float | None = None


def run_checks(
    model: PreTrainedModel, encoder: Encoder, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the outcome of every check.

    Parameters
    ----------
    model
        The loaded model.
    encoder
        Writes samples as tokens for it.
    settings
        ``dtype`` and ``attention`` that were asked for, ``projections`` and ``reduction``.

    Raises
    ------
    UserError
        If the engine refuses the model by name, or memory runs out: neither is a verdict.
    """
    ids = built_in_ids(encoder, Limits.of(model))
    checks: dict[str, Callable[[], Check]] = {
        "BOS count": lambda: bos_count(encoder),
        "precision": lambda: precision(model, settings),
        # first: a RoPE that remembers the longest sample must not have seen one
        "padding and batch": lambda: invariance(model, ids, settings),
        "causality": lambda: causality(model, ids, settings),
        "layers": lambda: layers(model, ids, settings),
        "autograd": lambda: against_autograd(model, ids, settings),
    }
    return [asdict(_outcome(name, check)) for name, check in checks.items()]


def _outcome(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; one that cannot be carried out has failed."""
    try:
        return check()
    except (UserError, torch.AcceleratorError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"preflight, {name}: memory ran out on a sample of {LONG} tokens: give the job "
                "more memory or GPUs (`gpus`), or use bfloat16"
            ) from None
        return Check(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def built_in_ids(encoder: Encoder, limits: Limits) -> tuple[int, ...]:
    """Return tokens of the built-in text that the model knows, as many as the longest check takes.

    Real words, since some models' activations overflow on what they never saw.
    """
    tokenizer = encoder.tokenizer
    text = tokenizer(f"{INSTRUCTION}\n{RESPONSE}", add_special_tokens=False)["input_ids"]
    known = [token for token in text if token < limits.vocabulary] or [0]
    bos = tokenizer.bos_token_id
    first = [bos] if bos is not None and bos < limits.vocabulary else []
    ids = (first + known * (LONG // len(known) + 1))[:LONG]
    return tuple(ids[: limits.positions])


def sample_of(ids: tuple[int, ...], tokens: int) -> Encoded:
    """Return the first tokens as a sample; the loss is over the last two thirds of it."""
    taken = ids[:tokens]
    return Encoded(taken, max(len(taken) // 3, 1), len(taken))


# ------------------------------------------------------------------------------------ the checks


def unlimited(encoder: Encoder) -> Encoder:
    """Return an encoder without limits of length, which are no part of the verdict."""
    return replace(encoder, max_length=sys.maxsize, cut=None)


def bos_count(encoder: Encoder) -> Check:
    """Count the BOS that begin a sample; the paper's protocol has two where a template adds one."""
    try:
        ids = unlimited(encoder).encode(INSTRUCTION, RESPONSE).ids
    except SampleError as error:  # every sample is judged where it is written
        return Check("BOS count", "noted", f"the built-in sample cannot be written: {error}")
    bos = encoder.tokenizer.bos_token_id
    count = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    wanted = "a tokenizer without BOS" if bos is None else f"BOS is {encoder.tokenizer.bos_token!r}"
    detail = f"{count} at the start of a sample ({wanted})"
    if count <= 1:
        return Check("BOS count", "passed", detail, count, 1)
    status = "noted" if encoder.protocol == "paper" else "failed"
    return Check("BOS count", status, detail, count, 1)


def precision(model: PreTrainedModel, settings: dict[str, Any]) -> Check:
    """Compare the precision and the attention in use with those that were asked for."""
    used = (str(model.dtype).removeprefix("torch."), model.config._attn_implementation)
    asked = (settings["dtype"], settings["attention"])
    detail = f"{used[0]}, {used[1]} attention, TF32 {torch.backends.cuda.matmul.allow_tf32}"
    if used == asked:
        return Check("precision", "passed", detail)
    return Check("precision", "failed", f"{detail}; asked for {asked[0]}, {asked[1]}")


def invariance(model: PreTrainedModel, ids: tuple[int, ...], settings: dict[str, Any]) -> Check:
    """Compare samples measured alone, shortest first, with the same in one batch and after it.

    Batches are made as for a cell, so a model whose samples must go alone passes if they do.
    """
    lengths = sorted({min(n, len(ids)) for n in (SHORT, MIDDLE, LONG)})
    limit = rope_limit(model)
    affordable = AFFORDABLE.get(model.device.type, AFFORDABLE["cpu"])
    if limit is not None and max(lengths) < limit + 3 <= affordable:
        lengths.append(limit + 3)
    repeated = ids * (lengths[-1] // len(ids) + 1)
    samples = [sample_of(repeated, length) for length in lengths]

    def measured(chosen: list[Encoded], budget: int) -> list[Measured]:
        extractor = Extractor(model, settings["projections"], settings["reduction"], budget)
        found = dict(result for batch in extractor.run(chosen) for result in batch)
        for result in found.values():
            if isinstance(result, Failed):
                raise ValueError(f"{result.reason}: {result.detail}")
        return [found[i] for i in range(len(chosen))]

    alone = [measured([sample], 1)[0] for sample in samples]
    together = measured(samples, sum(lengths) * len(lengths))
    after = measured(samples[:1], 1)
    worst = max(
        _difference(one, other, settings["dtype"])
        for one, other in [*zip(alone, together, strict=True), (alone[0], after[0])]
    )
    bound = INVARIANCE[settings["dtype"]]
    detail = (
        f"nuclear norms of samples of {', '.join(map(str, lengths))} tokens, alone, in one batch "
        f"and after it, differ by {worst:.1e} at most"
    )
    if limit is not None and limit > max(lengths):
        detail += f"; RoPE changes at {limit} tokens, beyond what was measured"
    return _judged("padding and batch", detail, worst, bound)


def rope_limit(model: PreTrainedModel) -> int | None:
    """Return the length beyond which RoPE depends on the longest sample of a batch, if it does."""
    config = text_config(model.config)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    groups = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    limits = []
    for part in groups:
        if (part.get("rope_type") or part.get("type")) in {"longrope", "su", "dynamic"}:
            own = part.get("original_max_position_embeddings")
            whole = getattr(config, "original_max_position_embeddings", None)
            limits.append(own or whole or config.max_position_embeddings)
    return min(limits, default=None)


def causality(model: PreTrainedModel, ids: tuple[int, ...], settings: dict[str, Any]) -> Check:
    """Compare the losses up to a position with those after other tokens follow it."""
    ids = ids[:MIDDLE]
    kept = len(ids) // 2
    other = ids[:kept] + tuple(reversed(ids[kept:]))
    if other == ids:
        return Check("causality", "noted", f"not checked: {len(ids)} equal tokens")
    losses = [_losses(model, sequence)[: kept - 1] for sequence in (ids, other)]
    worst = float(((losses[0] - losses[1]).abs().max() / losses[0].abs().max()).item())
    detail = f"other tokens from position {kept} on move the losses before it by {worst:.1e}"
    return _judged("causality", detail, worst, INVARIANCE[settings["dtype"]])


def _losses(model: PreTrainedModel, ids: tuple[int, ...]) -> Tensor:
    tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        chances = model(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1)
    return -chances[:-1].gather(1, tokens[0, 1:, None].to(chances.device))[:, 0]


def layers(model: PreTrainedModel, ids: tuple[int, ...], settings: dict[str, Any]) -> Check:
    """Compare what the engine delivers with the modules that run in each layer.

    Every asked projection of a place arrives once. Its module runs once and shares its weight with
    no other. Layers in which the same modules run have the same projections.
    """
    asked = settings["projections"]
    places = find_places(model, asked)
    sample = sample_of(ids, SHORT)
    arrived: Counter[tuple[int, str]] = Counter()

    def receive(layer: int, names: list[str], _inputs: Tensor, _gradients: list[Tensor]) -> None:
        arrived.update((layer, name) for name in names if name in asked)

    with _counting_calls(model) as calls:
        gradient_factors(
            model, places, pad([sample], 0, model.device), settings["reduction"], receive
        )
    wanted = {(p.layer, name) for p in places for name in p.projections if name in asked}
    faults = [
        f"{projection} of layer {layer} arrived {arrived[layer, projection]} times"
        for layer, projection in sorted(wanted | arrived.keys())
        if arrived[layer, projection] != 1 or (layer, projection) not in wanted
    ]
    faults += [f"{p.name} ran {calls[p.name]} times" for p in places if calls[p.name] != 1]
    faults += _shared(places)
    faults += _unlike(places, calls, asked)
    if faults:
        return Check("layers", "failed", _first(faults))
    depth = text_config(model.config).num_hidden_layers
    told = []
    for projection in asked:
        having = {layer for layer, name in wanted if name == projection}
        told.append(f"{projection} in {len(having)}")
    return Check("layers", "passed", f"each once: {', '.join(told)} of {depth} layers")


def _first(faults: list[str]) -> str:
    more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more


@contextmanager
def _counting_calls(model: PreTrainedModel) -> Iterator[Counter[str]]:
    """Count the calls of every module that has a matrix as its weight."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, n=name: calls.update([n]))
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _shared(places: list[Place]) -> list[str]:
    owners: dict[int, str] = {}
    faults = []
    for place in places:
        weight = getattr(place.module, "weight", None)
        if weight is not None and owners.setdefault(id(weight), place.name) != place.name:
            faults.append(f"{owners[id(weight)]} and {place.name} share one weight")
    return faults


def _unlike(places: list[Place], calls: Counter[str], asked: Sequence[str]) -> list[str]:
    """Name layers that run the same modules as others and lack projections that these have."""
    held: dict[str, set[str]] = {}
    for place in places:
        layer = _layer_of(place.name)
        held.setdefault(layer, set()).update(p for p in place.projections if p in asked)
    lists = {layer.rpartition(".")[0] for layer in held}
    ran: dict[str, set[str]] = {}
    for name in calls:
        for group in lists:
            inside = re.match(rf"{re.escape(group)}\.\d+(?=\.)", name)
            if inside:
                ran.setdefault(inside[0], set()).add(name[inside.end() :])
    alike: dict[frozenset[str], list[str]] = {}
    for layer, modules in ran.items():
        alike.setdefault(frozenset(modules), []).append(layer)
    faults = []
    for same in alike.values():
        everything = set().union(*(held.get(layer, set()) for layer in same))
        faults += [
            f"{layer} runs the same modules as other layers, but its "
            f"{', '.join(sorted(everything - held.get(layer, set())))} would not be measured"
            for layer in same
            if everything - held.get(layer, set())
        ]
    return faults


def _layer_of(name: str) -> str:
    """Return the layer that a module is in: its name up to the first number."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else name


def against_autograd(
    model: PreTrainedModel, ids: tuple[int, ...], settings: dict[str, Any]
) -> Check:
    """Compare loss and spectra of one sample with autograd on the weights of a few layers."""
    places = chosen_places(find_places(model, settings["projections"]))
    sample = sample_of(ids, MIDDLE)
    every = sorted({name for place in places for name in place.projections})
    batch = pad([sample], 0, model.get_input_embeddings().weight.device)
    measured = measure(model, places, every, batch, settings["reduction"])[0]
    names = [place.name for place in places]
    truth = true_gradients(model, sample.ids, sample.start, settings["reduction"], names)
    dtype = settings["dtype"]
    scale = max(float(g.double().norm()) for g in truth.gradients.values() if isinstance(g, Tensor))
    faults, errors, unseen = [], [abs(measured.loss / truth.loss - 1)], []
    if not errors[0] < AGREEMENT[dtype]:
        faults.append(f"the loss is {measured.loss:.6g}, autograd says {truth.loss:.6g}")
    for place in places:
        for what, found, expected in compared(place, places, measured, truth, unseen):
            if isinstance(expected, str):
                faults.append(expected)
                continue
            error = float(abs(found - expected) / max(abs(expected), VANISHING[dtype] * scale))
            errors.append(error)
            if not error < AGREEMENT[dtype]:
                faults.append(f"{what} is {found:.4g}, autograd says {expected:.4g}")
    worst = float(np.max(errors))
    layer = sorted({place.layer for place in places})
    if faults:
        return Check("autograd", "failed", _first(faults), worst, AGREEMENT[dtype])
    detail = (
        f"loss and {len(errors) - 1} norms of gradients of {len(sample.ids)} tokens, layers "
        f"{', '.join(map(str, layer))}, agree with autograd on the weights to {worst:.1e}"
    )
    if unseen:
        detail += f"; split compared as a whole only: {_first(unseen)}"
    return _judged("autograd", detail, worst, AGREEMENT[dtype])


def chosen_places(places: list[Place]) -> list[Place]:
    """Return the places of the first, middle and last layer, and of one layer of each kind."""
    kinds: dict[int, list[tuple[str, tuple[str, ...]]]] = {}
    for place in places:
        kinds.setdefault(place.layer, []).append(
            (place.name.removeprefix(_layer_of(place.name)), place.projections)
        )
    numbers = sorted(kinds)
    chosen = {numbers[0], numbers[len(numbers) // 2], numbers[-1]}
    for kind in {tuple(sorted(kind)) for kind in kinds.values()}:
        chosen.add(next(n for n in numbers if tuple(sorted(kinds[n])) == kind))
    return [place for place in places if place.layer in chosen]


def compared(
    place: Place,
    places: list[Place],
    measured: Measured,
    truth: Truth,
    unseen: list[str],
) -> Iterator[tuple[str, float, float | str]]:
    """Yield what is compared of one place: its name, the engine's number and autograd's.

    Instead of a number there is a message where a module does not do what the layout says. A fused
    weight whose split could not be seen goes into `unseen`: its parts together are compared.
    """
    gradient = truth.gradients[place.name]
    if gradient is None:
        unseen.append(f"{place.name} (no single weight)")
        return
    own = {p: measured.spectra[place.layer, p].astype(np.float64) for p in place.projections}
    rows = rows_of(place, places, truth)
    if isinstance(rows, str):
        yield place.name, np.nan, rows
        return
    if rows is None:
        unseen.append(place.name)
        square = float(np.sqrt(sum((values**2).sum() for values in own.values())))
        yield f"Frobenius norm of {place.name}", square, float(gradient.double().norm())
        return
    for projection, values in own.items():
        part = gradient[rows[projection]].double()
        name = f"{projection} in layer {place.layer}"
        spectrum = singular_values(part, len(values))
        yield f"nuclear norm of {name}", float(values.sum()), float(spectrum.sum())
        whole = float(np.sqrt((values**2).sum()))
        yield f"Frobenius norm of {name}", whole, float(part.norm())


def rows_of(place: Place, places: list[Place], truth: Truth) -> dict[str, Tensor] | str | None:
    """Return which rows of a weight belong to each projection, as the model uses them.

    Returns
    -------
    dict, str or None
        Projection -> rows; a message if the model uses the module as something else than the layout
        says; None if several projections share the weight and their use could not be seen.
    """
    seen = truth.rows.get(place.name, {})
    gradient = truth.gradients[place.name]
    everything = torch.ones(gradient.shape[0], dtype=torch.bool, device=gradient.device)
    rows: dict[str, Tensor] = {}
    for projection in place.projections:
        siblings = [p for p in places if p.layer == place.layer and _is_kin(p, projection)]
        used = any(
            projection in truth.rows.get(p.name, {}) for p in siblings
        )  # the model was seen to use something of this layer so
        if projection in seen:
            rows[projection] = seen[projection].to(gradient.device)
        elif used:
            return f"{place.name} is taken for {projection}, but the model does not use it so"
        elif projection == "up" and "gate" in place.projections and "gate" in seen:
            rows["up"] = ~seen["gate"].to(gradient.device)
        elif len(place.projections) == 1:
            rows[projection] = everything
        else:
            return None
    return rows


def _is_kin(place: Place, projection: str) -> bool:
    """Say whether a place could hold a projection: they read attention's or the MLP's input."""
    kin = ({"q", "k", "v"}, {"gate", "up"})
    return any(projection in group and group & set(place.projections) for group in kin)


def _difference(one: Measured, other: Measured, dtype: str) -> float:
    """Return the largest relative difference of loss and nuclear norms of one sample."""
    scale = max(float(values.sum()) for values in one.spectra.values())
    differences = [abs(other.loss / one.loss - 1)]
    for place, values in one.spectra.items():
        norm = max(float(values.sum()), VANISHING[dtype] * scale)
        differences.append(abs(float(other.spectra[place].sum()) - float(values.sum())) / norm)
    return float(np.max(differences))


def _judged(name: str, detail: str, value: float, limit: float) -> Check:
    passed = bool(np.isfinite(value) and value < limit)
    return Check(name, "passed" if passed else "failed", detail, value, limit)
