"""From a dataset's pool to the table of its samples: every response under every control."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import polars as pl

from layergrad import __version__
from layergrad.config import DatasetSpec, Study
from layergrad.datasets.controls import Bank, apply_control
from layergrad.datasets.pool import Pool, Sample, choose
from layergrad.datasets.sources import load_pool
from layergrad.tables import DATASET, conform


def build_dataset(study: Study, name: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Build the samples of a dataset.

    Returns
    -------
    frame
        Table DATASET: one row per sample, response and control.
    facts
        What was found on the way, for the file's provenance: rows of the source, rows refused,
        why and where, rows that a control leaves as they are.

    Raises
    ------
    UserError
        If the source is missing or malformed, or too small for a control.
    """
    spec = study.dataset(name)
    pool = load_pool(spec)
    bank = Bank(pool, study.seed)
    samples = choose(pool, study.samples, study.seed)
    rows = [
        _row(spec, sample, response, control, apply_control(bank, control, sample, response))
        for response, control in study.variants_of(spec)
        for sample in samples
    ]
    frame = conform(pl.DataFrame(rows, infer_schema_length=None), DATASET)
    return frame, _facts(pool, samples, study.samples)


def _row(
    spec: DatasetSpec, sample: Sample, response: str, control: str, text: str
) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "row": sample.row,
        "dataset": spec.name,
        "response": response,
        "control": control,
        "instruction": sample.instruction,
        "response_text": text,
    }


def _facts(pool: Pool, samples: list[Sample], wanted: int) -> dict[str, Any]:
    return {
        "source_rows": len(pool.samples),
        "refused": pool.refused,
        "first_refused": pool.first_refused,
        "samples": len(samples),
        "samples_wanted": wanted,
        "versions": {
            "layergrad": __version__,  # it may run from its folder, without being installed
            **{package: version(package) for package in ("polars", "reasoning-gym", "sentencex")},
        },
    }
