"""Synthetic spectra with known effects, written through the real tables.

``write_study_spectra(root, study)`` leaves below `root` what the spectra phase would leave for that
study: cell files, their failures and the index of each pair. Run later steps with `root` as the
working directory. On average None > Simplified > Detailed, and only slow responses tell correct
from irrelevant; every effect is an argument, so that tests can know the right answer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from layergrad.config import Study
from layergrad.plan import Cell, Plan
from layergrad.provenance import digest, write_json
from layergrad.tables import FAILURES, SPECTRA, write_table

RESPONSE_SCALE = {
    "none": 6.0,
    "simplified": 2.0,
    "detailed": 1.0,
    "len100": 2.0,
    "len500": 2.2,
    "len1000": 2.4,
}
RESPONSE_TOKENS = {
    "none": 3,
    "simplified": 40,
    "detailed": 200,
    "len100": 90,
    "len500": 300,
    "len1000": 500,
}
IRRELEVANT = {"none": 0.0, "simplified": 0.1, "detailed": 0.4}
PROJECTION_SCALE = {"q": 1.0, "k": 0.8, "v": 2.0, "o": 1.5, "gate": 2.5, "up": 3.0, "down": 2.0}


def tiny_study(
    models: tuple[str, ...] = ("tiny-base", "tiny-instruct"),
    datasets: tuple[str, ...] = ("gsm_symbolic", "knowledge"),
    **changes: object,
) -> Study:
    """Return a study of random models of one family; names ending in ``-base`` are base models."""
    responses = {"knowledge": ["len100", "len500", "len1000"]}
    return Study.model_validate(
        {
            "models": [
                {
                    "name": name,
                    "source": {"kind": "random", "architecture": "llama", "seed": seed},
                    "family": "tiny",
                    "tuning": "base" if name.endswith("-base") else "instruct",
                }
                for seed, name in enumerate(models)
            ],
            "datasets": [
                {
                    "name": name,
                    "group": "knowledge" if name == "knowledge" else "math",
                    "task": "knowledge" if name == "knowledge" else "reasoning",
                    "source": {"kind": "embedded"}
                    if name == "knowledge"
                    else {"kind": "reasoning_gym"},
                    "responses": responses.get(name, ["none", "simplified", "detailed"]),
                }
                for name in datasets
            ],
            "equal_tokens": False,  # spectra are drawn: there is no text to cut
            **changes,
        }
    )


def write_study_spectra(
    root: Path | str,
    study: Study,
    *,
    seed: int = 0,
    layers: int = 6,
    rank: int = 16,
    scale: dict[str, float] | None = None,
    irrelevant: dict[str, float] | None = None,
    roughness: dict[str, float] | None = None,
    model_scale: dict[str, dict[str, float]] | None = None,
    tokens: dict[str, float] | None = None,
    length_slope: float = 0.0,
    spread: float = 0.2,
    noise: float = 0.1,
    failed: dict[tuple[str, str], int] | None = None,
) -> list[Path]:
    """Write the spectra of a whole study and return the paths of the indexes, one a pair.

    Parameters
    ----------
    root
        Folder that stands for the project's root; paths inside the indexes are relative to it.
    study
        What to write: models x datasets x responses x controls, ``study.samples`` rows a cell.
    seed, layers, rank
        Seed; depth of the models; longest spectrum (shorter where a sample has fewer tokens).
    scale, irrelevant, tokens
        Per response: size of the gradient; relative excess of a wrong response; median tokens.
    roughness
        Per response: size of the layer-to-layer zigzag relative to the gradient (0.2 if absent).
    model_scale
        Per model and response: a further factor, for contrasts between models.
    length_slope
        Gradients are multiplied by (response tokens / 100) ** length_slope.
    spread, noise
        Standard deviation, in the logarithm, of the instruction's effect (shared by its responses
        and by all models) and of the noise of each sample, layer and projection.
    failed
        Number of failed samples by (response, control): the last rows.
    """
    root = Path(root)
    plan = Plan(study)
    effects = {
        "scale": {**RESPONSE_SCALE, **(scale or {})},
        "irrelevant": {**IRRELEVANT, **(irrelevant or {})},
        "roughness": roughness or {},
        "tokens": {**RESPONSE_TOKENS, **(tokens or {})},
        "length_slope": length_slope,
        "spread": spread,
        "noise": noise,
    }
    indexes = []
    for model, dataset in plan.pairs:
        entries = []
        for cell in plan.measured_cells(model, dataset):
            factor = (model_scale or {}).get(model, {}).get(cell.response, 1.0)
            frame = cell_spectra(cell, study, seed, layers, rank, factor, effects)
            lost = (failed or {}).get((cell.response, cell.control), 0)
            entries.append(_write_cell(root, plan, cell, frame, study.samples, lost))
        index = root / plan.spectra_file(model, dataset)
        content = {"key": plan.spectra_key(model, dataset), "model": model, "dataset": dataset}
        write_json({**content, "cells": entries, "provenance": {"device": "synthetic"}}, index)
        indexes.append(index)
    return indexes


def cell_spectra(
    cell: Cell,
    study: Study,
    seed: int,
    layers: int,
    rank: int,
    factor: float,
    effects: dict,
) -> pl.DataFrame:
    """Return the SPECTRA table of one cell; see :func:`write_study_spectra`."""
    n, projections = study.samples, study.extraction.projections
    shared = _rng(seed, cell.dataset).normal(0, effects["spread"], n)
    rng = _rng(seed, *cell)
    tokens = np.maximum(1, effects["tokens"][cell.response] * np.exp(rng.normal(0, 0.3, n)))
    tokens = tokens.round().astype(np.int32)
    size = factor * effects["scale"][cell.response] * (tokens / 100) ** effects["length_slope"]
    if cell.control != "correct":
        size = size * (1 + effects["irrelevant"].get(cell.response, 0.2))
    layer = np.arange(layers)
    zigzag = effects["roughness"].get(cell.response, 0.2) * (-1.0) ** layer
    curve = 1 + 0.8 * np.exp(-layer / 3) + zigzag
    by_projection = np.array([PROJECTION_SCALE[p] for p in projections])
    nuclear = (
        (size * np.exp(shared))[:, None, None]
        * curve[None, :, None]
        * by_projection[None, None, :]
        * np.exp(rng.normal(0, effects["noise"], (n, layers, len(projections))))
    )
    # power laws, steeper for short responses; a spectrum has no more values than tokens
    lengths = np.repeat(np.minimum(rank, tokens + 4), layers * len(projections))
    exponent = np.repeat(0.6 + 3 / np.sqrt(tokens), layers * len(projections))
    place = np.arange(1, rank + 1)[None, :]
    shape = np.where(place <= lengths[:, None], place ** -exponent[:, None], 0.0)
    values = shape / shape.sum(1, keepdims=True) * nuclear.reshape(-1, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = values[place <= lengths[:, None]].astype(np.float32)
    spectra = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
    loss = rng.gamma(4, 0.5, n)
    rows = np.repeat(np.arange(n), layers * len(projections))
    return pl.DataFrame(
        {
            "model": cell.model,
            "dataset": cell.dataset,
            "response": cell.response,
            "control": cell.control,
            "sample_id": np.array([_sample_id(cell.dataset, i) for i in range(n)])[rows],
            "row": rows.astype(np.int32),
            "layer": np.tile(np.repeat(layer, len(projections)), n).astype(np.int16),
            "projection": np.tile(np.array(projections), n * layers),
            "tokens": tokens[rows] + 20,
            "response_tokens": tokens[rows],
            "loss": loss[rows],
            "singular_values": pl.Series(spectra),
            "content": np.array(
                [hashlib.sha256(f"{cell}{i}".encode()).hexdigest() for i in range(n)]
            )[rows],
        },
    )


def _write_cell(
    root: Path, plan: Plan, cell: Cell, frame: pl.DataFrame, samples: int, lost: int
) -> dict:
    spectra = plan.cell_file(cell)
    failures = spectra.removesuffix(".parquet") + ".failures.parquet"
    provenance = {"key": plan.cell_key(cell)}
    kept = frame.filter(pl.col("row") < samples - lost)
    gone = (
        frame.filter(pl.col("row") >= samples - lost)
        .unique("row")
        .select(
            *list(FAILURES.schema)[:6],
            reason=pl.lit("no_response_tokens"),
            detail=pl.lit("made to fail"),
        )
    )
    write_table(kept, SPECTRA, root / spectra, provenance)
    write_table(gone, FAILURES, root / failures, provenance)
    return {
        "response": cell.response,
        "control": cell.control,
        "key": plan.cell_key(cell),
        "spectra": spectra,
        "failures": failures,
        "sha256": digest(root / spectra, "sha256"),
        "failures_sha256": digest(root / failures, "sha256"),
        "samples": samples - lost,
        "failed": lost,
    }


def _rng(seed: int, *names: str) -> np.random.Generator:
    digest_ = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest_[:8], "little")])


def _sample_id(dataset: str, row: int) -> str:
    return hashlib.sha256(f"{dataset} {row}".encode()).hexdigest()[:16]
