"""Cosine between the gradients of two samples, without forming either.

For G1 = D1^T X1 and G2 = D2^T X2 the inner product is <G1, G2> = sum((X1 X2^T) * (D1 D2^T)), two
matrices of T1 x T2. Compared are the samples of one instruction: every two responses under the
right control (fast against slow), and every response with each of its wrong twins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layergrad.config import CORRECT
from layergrad.models.encode import Encoded
from layergrad.models.fetch import check_files
from layergrad.models.layouts import Place, find_places
from layergrad.plan import Plan
from layergrad.progress import Progress
from layergrad.spectra.batches import pad
from layergrad.spectra.capture import Batch, padded_factors
from layergrad.spectra.extract import default_budget
from layergrad.spectra.limits import Limits
from layergrad.spectra.pair import (
    describe_device,
    describe_run,
    failed_check,
    load,
    make_encoder,
    read_receipt,
)
from layergrad.spectra.tokens import tokenise
from layergrad.tables import DATASET, SIMILARITY, read_table, write_table

Cosines = dict[tuple[int, str], list[float]]


class Side(NamedTuple):
    """One of the two samples that are compared, by response and control."""

    response: str
    control: str


def cosines(
    model: PreTrainedModel,
    places: list[Place],
    projections: list[str],
    batch: Batch,
    pairs: list[tuple[int, int]],
) -> Cosines:
    """Return the cosines between the gradients of pairs of samples of one batch.

    The reduction of the loss scales a gradient and so does not matter.

    Returns
    -------
    dict
        (layer, projection) -> one cosine a pair, float64; NaN where a gradient is zero.
    """
    found: dict[tuple[int, str], Tensor] = {}
    wanted = sorted({(i, i) for pair in pairs for i in pair} | set(pairs))

    def receive(layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]) -> None:
        X = [inputs[i, :length].double() for i, length in enumerate(batch.lengths)]
        products = {(i, j): X[i] @ X[j].T for i, j in wanted}
        for name, gradient in zip(names, gradients, strict=True):
            if name in projections:
                D = [gradient[i, :length].double() for i, length in enumerate(batch.lengths)]
                inner = {(i, j): (products[i, j] * (D[i] @ D[j].T)).sum() for i, j in wanted}
                found[layer, name] = torch.stack(
                    [inner[i, j] / (inner[i, i] * inner[j, j]).sqrt() for i, j in pairs]
                )

    padded_factors(model, places, batch, receive)
    return {place: values.tolist() for place, values in found.items()}


def write_similarity(
    plan: Plan,
    model: str,
    dataset: str,
    receipt: str | Path,
    samples: str | Path,
    output: str | Path,
    preflight: str | Path | None = None,
) -> str | None:
    """Measure the cosines of every instruction of a dataset and write the table SIMILARITY.

    Samples that cannot be measured are left out here; the failures of the spectra name them. A
    cosine is null where a gradient is zero, or two samples do not fit in memory together. A model
    that failed its `preflight` has none: what was wrong with it is returned.
    """
    fetched = read_receipt(receipt)
    check_files(fetched)
    if refusal := failed_check(preflight):
        provenance = {"key": plan.similarity_key(model, dataset), "refusal": refusal}
        write_table(pl.DataFrame(schema=SIMILARITY.schema), SIMILARITY, output, provenance)
        return refusal
    tokens = tokenise(
        read_table(samples, DATASET), make_encoder(plan, model, fetched["path"]), plan.engine(model)
    )
    loaded, device = load(plan, model, fetched["path"])
    projections = plan.study.extraction.projections
    places = find_places(loaded, projections)
    budget = plan.study.runtime.token_budget or default_budget(loaded, device)
    measured = [(p.layer, name) for p in places for name in p.projections if name in projections]
    limits = Limits.of(loaded)
    groups = _by_instruction(
        [s for s in tokens.samples if limits.fault(tokens.encoded[s["content"]]) is None]
    )
    rows: list[dict[str, Any]] = []
    with Progress(f"similarity {model}", len(groups), "instruction") as progress:
        for (row, sample_id), group in groups.items():
            encoded = {side: tokens.encoded[content] for side, content in group.items()}
            batches = deque(_batches(encoded, budget))
            while batches:
                sides, pairs = batches.popleft()
                batch = pad([encoded[side] for side in sides], 0, device)
                numbers = [(sides.index(a), sides.index(b)) for a, b in pairs]
                try:
                    values = cosines(loaded, places, projections, batch, numbers)
                except torch.OutOfMemoryError:
                    budget = 1
                    if len(pairs) > 1:
                        batches.extendleft(([a, b], [(a, b)]) for a, b in reversed(pairs))
                        continue
                    values = {place: [None] for place in measured}
                rows += [
                    {
                        "model": model,
                        "dataset": dataset,
                        "sample_id": sample_id,
                        "row": row,
                        "response": a.response,
                        "control": a.control,
                        "other_response": b.response,
                        "other_control": b.control,
                        "layer": layer,
                        "projection": projection,
                        "cosine": cosine,
                    }
                    for (layer, projection), row_values in values.items()
                    for (a, b), cosine in zip(pairs, row_values, strict=True)
                ]
            progress.advance()
    provenance = {
        "key": plan.similarity_key(model, dataset),
        **describe_run(plan, model),
        **describe_device(device),
    }
    frame = pl.DataFrame(rows, schema=SIMILARITY.schema).with_columns(
        pl.col("cosine").fill_nan(None)
    )
    write_table(frame, SIMILARITY, output, provenance)
    return None


def _by_instruction(samples: list[dict[str, Any]]) -> dict[tuple[int, str], dict[Side, str]]:
    groups: dict[tuple[int, str], dict[Side, str]] = {}
    for sample in samples:
        group = groups.setdefault((sample["row"], sample["sample_id"]), {})
        group[Side(sample["response"], sample["control"])] = sample["content"]
    return groups


def compared(sides: list[Side]) -> list[tuple[Side, Side]]:
    """Return which sides are compared: correct responses two by two, and each with its twins."""
    right = [side for side in sides if side.control == CORRECT]
    twins = [
        (side, other)
        for side in right
        for other in sides
        if other.response == side.response and other.control != CORRECT
    ]
    return [*combinations(right, 2), *twins]


def _batches(
    encoded: dict[Side, Encoded], budget: int
) -> Iterator[tuple[list[Side], list[tuple[Side, Side]]]]:
    """Yield sides and pairs: all of an instruction at once if they fit, else two by two."""
    pairs = compared(list(encoded))
    longest = max(len(sample.ids) for sample in encoded.values())
    if not pairs:
        return
    if longest * len(encoded) <= budget:
        yield list(encoded), pairs
        return
    for pair in pairs:
        yield list(pair), [pair]
