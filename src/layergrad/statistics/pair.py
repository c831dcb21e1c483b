"""The tables of one pair (model, dataset): metrics, curves, MAD, RD and what went in.

Cells are read one at a time: memory is bounded by one cell's spectra in chunks, the metrics of the
pair as arrays, and the draws of one cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from layergrad.config import StatisticsSettings
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import digest, read_json, versions
from layergrad.statistics.bands import BANDS
from layergrad.statistics.bootstrap import instruction_weights, interval, weighted_means
from layergrad.statistics.curves import Values, mad, mean_curve, relative_difference, values
from layergrad.statistics.metrics import KEYS, measure, rounded
from layergrad.tables import (
    CURVES,
    FAILURES,
    LENGTHS,
    MAD,
    METRICS,
    RD,
    RD_SUMMARY,
    SAMPLES,
    SPECTRA,
    Table,
    read_table,
    scan_table,
    write_parts,
    write_table,
)

PAIR_TABLES = (METRICS, CURVES, MAD, RD, RD_SUMMARY, SAMPLES, LENGTHS)
CORRECT = "correct"
TOP_LAYERS = 5


def aggregate(plan: Plan, model: str, dataset: str, index: Path, output_dir: Path) -> None:
    """Write the tables of one pair.

    Parameters
    ----------
    plan
        The study.
    model, dataset
        The pair.
    index
        Index of the pair's spectra; the paths in it are relative to the working directory.
    output_dir
        Folder that gets one file a table of :data:`PAIR_TABLES`, with equal bytes for equal input.

    Raises
    ------
    UserError
        If the index or a file that it lists is missing, broken or not the study's.
    """
    cells = read_index(plan, model, dataset, index)
    settings = plan.study.statistics
    provenance = {
        "key": plan.statistics_key(model, dataset),
        "inputs": {f"{c['response']}.{c['control']}": c["sha256"] for c in cells},
        "settings": settings.model_dump(mode="json"),
        "versions": versions("layergrad", "numpy", "polars"),
    }
    measured: dict[tuple[str, str], Measured] = {}
    parts = _measure_cells(model, dataset, cells, settings, measured)
    write_parts(parts, METRICS, output_dir / "metrics.parquet", provenance)
    for table, frame in _tables(model, dataset, measured, settings).items():
        path = output_dir / f"{table}.parquet"
        write_table(frame, _table(table), path, provenance)


# ------------------------------------------------------------------------------------- reading


def read_index(plan: Plan, model: str, dataset: str, index: Path) -> list[dict[str, Any]]:
    """Return the cells of an index, sorted, checked to be those of the study."""
    content = read_json(index)
    if content is None:
        raise UserError(f"{index}: missing or broken; run `layergrad spectra` for this pair")
    expected = plan.spectra_key(model, dataset)
    if content.get("key") != expected:
        raise UserError(
            f"{index}: holds spectra of key {content.get('key')}, the study asks for {expected}; "
            "run the workflow again"
        )
    cells = sorted(content["cells"], key=lambda c: (c["response"], c["control"]))
    for cell in cells:
        for what in ("spectra", "failures"):
            if not Path(cell[what]).exists():
                raise UserError(
                    f"{cell[what]}: listed in {index} but missing; run `dvc pull`, or delete the "
                    "index and run the workflow again"
                )
        if digest(cell["spectra"], "sha256") != cell["sha256"]:
            raise UserError(
                f"{cell['spectra']}: was changed after it was listed in {index}; delete both and "
                "run the workflow again"
            )
    return cells


@dataclass(frozen=True)
class Measured:
    """One cell in memory: its metrics, its samples and its failures."""

    values: Values | None
    samples: pl.DataFrame
    failures: pl.DataFrame


def _measure_cells(
    model: str,
    dataset: str,
    cells: list[dict[str, Any]],
    settings: StatisticsSettings,
    measured: dict[tuple[str, str], Measured],
) -> Iterator[pl.DataFrame]:
    """Measure one cell after the other: fill `measured`, yield the long table of metrics."""
    for cell in cells:
        frame = measure(scan_table([cell["spectra"]], SPECTRA), settings.metrics)
        failures = read_table(cell["failures"], FAILURES)
        found = values(frame, settings.metrics, cell["spectra"]) if frame.height else None
        samples = frame.select("sample_id", "row", "tokens", "response_tokens", "loss")
        samples = samples.unique("row").sort("row")
        if samples.height != cell["samples"] or failures.height != cell["failed"]:
            raise UserError(
                f"{cell['spectra']}: holds {samples.height} samples, {failures.height} failures, "
                f"its index says {cell['samples']} and {cell['failed']}; delete it and run again"
            )
        measured[cell["response"], cell["control"]] = Measured(found, samples, failures)
        long = frame.unpivot(
            settings.metrics, index=KEYS, variable_name="metric", value_name="value"
        )
        yield long.with_columns(_names(model, dataset, cell["response"], cell["control"]))


# --------------------------------------------------------------------------------------- tables


def _tables(
    model: str,
    dataset: str,
    measured: dict[tuple[str, str], Measured],
    settings: StatisticsSettings,
) -> dict[str, pl.DataFrame]:
    """Return every table of the pair but the metrics."""
    names = {
        name for m in measured.values() for f in (m.samples, m.failures) for name in f["sample_id"]
    }
    drawn = instruction_weights(sorted(names), settings.draws, settings.seed, dataset)
    parts: dict[str, list[pl.DataFrame]] = {table.name: [] for table in PAIR_TABLES[1:]}
    for (response, control), cell in measured.items():
        found = {"samples": _samples(cell)}
        if cell.values is not None:
            found["lengths"] = _lengths(cell)
            found["curves"], found["mad"] = _curves_and_mad(cell.values, drawn, settings)
            correct = measured.get((response, CORRECT))
            if control != CORRECT and correct is not None and correct.values is not None:
                found.update(_rd(cell.values, correct.values, drawn, settings))
        for table, frame in found.items():
            cells = _names(model, dataset, response, control)
            parts[table].append(frame.with_columns(cells))
    return {
        table: pl.concat(frames).with_columns(rounded(pl.col(pl.Float64)))
        if frames
        else pl.DataFrame(schema=_table(table).schema)
        for table, frames in parts.items()
    }


def _samples(cell: Measured) -> pl.DataFrame:
    reasons = sorted(cell.failures["reason"].value_counts().iter_rows())
    means = cell.samples.select(pl.mean("tokens", "response_tokens", "loss"))
    return means.with_columns(
        samples=pl.lit(cell.samples.height),
        failed=pl.lit(cell.failures.height),
        reasons=pl.lit("; ".join(f"{reason}: {count}" for reason, count in reasons)),
    )


def _lengths(cell: Measured) -> pl.DataFrame:
    """Return the mean over the layers of each metric, one row a sample, projection and metric."""
    found = cell.values
    means = weighted_means(np.ones((1, found.array.shape[1])), np.moveaxis(found.array, 1, 0))[0]
    frame = _grid(row=found.rows, projection=found.projections, metric=found.metrics)
    frame = frame.with_columns(value=_column(means), row=pl.col("row").cast(pl.Int32))
    return frame.join(cell.samples.drop("tokens"), on="row")


def _curves_and_mad(
    found: Values, drawn: dict[str, np.ndarray], settings: StatisticsSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    samples, layers = found.array.shape[:2]
    weights = found.weights(drawn)
    curve, draws = mean_curve(found.array), weighted_means(weights, found.array)
    low, high = interval(draws, samples, settings.confidence)
    frame = _grid(layer=range(layers), projection=found.projections, metric=found.metrics)
    curves = frame.with_columns(
        depth=pl.col("layer") / max(layers - 1, 1),
        mean=_column(curve),
        low=_column(low),
        high=_column(high),
        samples=_column(np.isfinite(found.array).sum(axis=0)),
    )
    of_mean, of_draws, of_samples = mad(curve), mad(draws), mad(found.array)
    bands = []
    for band in BANDS:
        low, high = interval(of_draws[band], samples, settings.confidence)
        mean_draws = weighted_means(weights, of_samples[band])
        mean_low, mean_high = interval(mean_draws, samples, settings.confidence)
        bands.append(
            _grid(projection=found.projections, metric=found.metrics).with_columns(
                band=pl.lit(band),
                value=_column(of_mean[band]),
                low=_column(low),
                high=_column(high),
                mean_of_sample_mads=_column(mean_curve(of_samples[band])),
                mean_of_sample_mads_low=_column(mean_low),
                mean_of_sample_mads_high=_column(mean_high),
                samples=pl.lit(samples),
            )
        )
    return curves, pl.concat(bands)


def _rd(
    wrong: Values, correct: Values, drawn: dict[str, np.ndarray], settings: StatisticsSettings
) -> dict[str, pl.DataFrame]:
    """Return the tables rd and rd_summary, over the instructions that both cells have."""
    rows = sorted(set(wrong.rows) & set(correct.rows))
    if not rows:
        return {}
    wrong, correct = wrong.pick(rows), correct.pick(rows)
    weights, layers = correct.weights(drawn), correct.array.shape[1]
    signed = relative_difference(mean_curve(wrong.array), mean_curve(correct.array))
    draws = relative_difference(
        weighted_means(weights, wrong.array), weighted_means(weights, correct.array)
    )
    low, high = interval(draws, len(rows), settings.confidence)
    by_layer = _grid(layer=range(layers), projection=correct.projections, metric=correct.metrics)
    rd = by_layer.with_columns(
        signed=_column(signed),
        absolute=_column(np.abs(signed)),
        low=_column(low),
        high=_column(high),
        samples=pl.lit(len(rows)),
    )
    over_layers = np.abs(draws).mean(axis=1)
    low, high = interval(over_layers, len(rows), settings.confidence)
    top = rd.sort("absolute", "layer", descending=[True, False], nulls_last=True)
    top = top.group_by("projection", "metric", maintain_order=True).agg(
        top_layers=pl.col("layer").filter(pl.col("absolute").is_not_null()).head(TOP_LAYERS)
    )
    summary = _grid(projection=correct.projections, metric=correct.metrics).with_columns(
        value=_column(np.abs(signed).mean(axis=0)),
        low=_column(low),
        high=_column(high),
        samples=pl.lit(len(rows)),
    )
    return {"rd": rd, "rd_summary": summary.join(top, on=["projection", "metric"])}


# -------------------------------------------------------------------------------------- helpers


def _grid(**axes: Any) -> pl.DataFrame:
    """Return one row for each element of an array in C order, with the names along its axes."""
    arrays = np.meshgrid(*[np.array(list(axis)) for axis in axes.values()], indexing="ij")
    return pl.DataFrame({name: a.ravel() for name, a in zip(axes, arrays, strict=True)})


def _column(array: np.ndarray) -> pl.Series:
    """Return an array in C order as a column, NaN as null."""
    return (
        pl.Series(array.ravel()).fill_nan(None)
        if array.dtype.kind == "f"
        else pl.Series(array.ravel())
    )


def _names(model: str, dataset: str, response: str, control: str) -> list[pl.Expr]:
    cell = {"model": model, "dataset": dataset, "response": response, "control": control}
    return [pl.lit(value).alias(name) for name, value in cell.items()]


def _table(name: str) -> Table:
    return next(table for table in PAIR_TABLES if table.name == name)
