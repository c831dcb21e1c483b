"""The numbers in the page: for each model its rows, packed small, and its captions."""

from __future__ import annotations

from math import isfinite
from typing import Any

import polars as pl

from layergrad.config import DatasetSpec, ModelSpec, metric_label
from layergrad.figures import PAIR_FAMILIES, has_family, has_knowledge, tuned_families
from layergrad.plan import Plan
from layergrad.report import facts
from layergrad.report.captions import Captions
from layergrad.report.draw import responses
from layergrad.report.families import knowledge_rows, pair_rows, tuning_rows
from layergrad.report.figures import length, words

# Rows of single samples in the page for each dataset: enough to see the cloud.
SAMPLE_ROWS = 6000
SIGNIFICANT_DIGITS = 5

Frames = dict[str, pl.DataFrame]


def model_data(plan: Plan, model: ModelSpec, frames: Frames, captions: Captions) -> dict[str, Any]:
    """Return the rows of all figures of a model, and their captions.

    Parameters
    ----------
    plan
        The study.
    model
        The model.
    frames
        The table over all pairs of each family.
    captions
        The captions.

    Returns
    -------
    dict
        ``datasets`` holds for each dataset ``rows`` and ``captions`` by family, ``whole`` the same
        over all datasets.
    """
    whole: dict[str, Any] = {"rows": {}, "captions": {}}
    if has_knowledge(plan.study):
        rows = knowledge_rows(frames["knowledge"], plan.study, model.name)
        whole["rows"]["knowledge"] = pack(rows)
        whole["captions"]["knowledge"] = family_captions(plan, None, "knowledge", rows, captions)
    return {
        "datasets": {
            dataset.name: dataset_data(plan, model, dataset, frames, captions)
            for dataset in plan.study.datasets
        },
        "whole": whole,
    }


def dataset_data(
    plan: Plan, model: ModelSpec, dataset: DatasetSpec, frames: Frames, captions: Captions
) -> dict[str, Any]:
    """Return rows and captions of one model on one dataset.

    Rows of base against instruct are not repeated: the page joins the curves of two models.
    """
    rows = {
        family: pair_rows(frames[family], family, model.name, dataset.name)
        for family in PAIR_FAMILIES
        if has_family(plan.study, dataset, family)
    }
    told = dict(rows)
    if model.family in tuned_families(plan.study):
        told["tuning"] = tuning_rows(frames["tuning"], plan.study, model.family, dataset.name)
    if "length" in rows:
        rows["length"] = length.thinned(rows["length"], SAMPLE_ROWS)
    return {
        "rows": {family: pack(frame) for family, frame in rows.items()},
        "captions": {
            family: family_captions(plan, dataset, family, frame, captions)
            for family, frame in told.items()
        },
    }


def family_captions(
    plan: Plan, dataset: DatasetSpec | None, family: str, rows: pl.DataFrame, captions: Captions
) -> dict[str, dict[str, str]]:
    """Return the captions of a family by metric and control; "" where rows tell neither apart."""
    rendered: dict[str, dict[str, str]] = {}
    keys = [name for name in ("metric", "control") if name in rows.columns]
    parts = rows.group_by(keys) if keys else [((), rows)]
    for values, part in sorted(parts, key=lambda found: found[0]):
        choice = {"metric": "", "control": "", **dict(zip(keys, values, strict=True))}
        if part.is_empty():
            continue
        told = {**getattr(facts, family)(part), **common(plan, dataset, choice, part)}
        if "samples" in told:
            low, high = told["samples"]
            told["n"] = str(low) if low == high else f"{low} to {high}"
        by_control = rendered.setdefault(choice["metric"], {})
        by_control[choice["control"]] = captions.html(family, told)
    return rendered


def common(
    plan: Plan, dataset: DatasetSpec | None, choice: dict[str, str], part: pl.DataFrame
) -> dict[str, Any]:
    """Return what every caption may use beside the facts of its family."""
    found = {
        "metric": words.within_sentence(words.metric_title(choice["metric"])),
        "control": choice["control"],
        "confidence": f"{100 * plan.study.statistics.confidence:g}",
        "claim_metric": claim_metric(plan),
    }
    if dataset is not None and "response" in part.columns:
        here = set(part["response"])
        present = [title for title in responses(plan.study, dataset.name) if title in here]
        # responses cut to equal length are shown, but a contrast is between whole ones
        whole = [title for title in present if not title.endswith(words.CUT)] or present
        found |= {"responses": present, "first": whole[0], "last": whole[-1]}
    return found


def claim_metric(plan: Plan) -> str:
    """Return the name within a sentence of the metric by which claims are tested."""
    return words.within_sentence(
        words.metric_title(metric_label(plan.study.statistics.claim_metric))
    )


def pack(rows: pl.DataFrame) -> dict[str, Any]:
    """Return columns as lists: texts once, numbers to five digits, so that the page stays small."""
    packed: dict[str, Any] = {}
    for column in rows.iter_columns():
        if column.dtype == pl.String:
            texts = column.drop_nulls().unique().sort().to_list()
            places = {text: i for i, text in enumerate(texts)}
            packed[column.name] = {"texts": texts, "at": [places.get(text) for text in column]}
        elif column.dtype.is_float():
            rounded = column.round_sig_figs(SIGNIFICANT_DIGITS)
            packed[column.name] = [v if v is not None and isfinite(v) else None for v in rounded]
        else:
            packed[column.name] = column.to_list()
    return packed
