"""The tables of one pair (model, dataset): metrics, curves, MAD, RD, estimates, what went in.

Cells are read one at a time: memory is bounded by one cell's spectra in chunks, the metrics of the
pair as arrays, and the draws of one cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from layergrad.config import CORRECT, StatisticsSettings, metric_label
from layergrad.plan import PAIR_TABLES, Plan
from layergrad.provenance import versions, write_checksums
from layergrad.results import inputs_of
from layergrad.statistics.bands import BANDS
from layergrad.statistics.bootstrap import (
    instruction_of,
    instruction_weights,
    interval,
    weighted_means,
)
from layergrad.statistics.cells import MeasuredCell, measure_cells, read_index
from layergrad.statistics.curves import (
    Values,
    jointly_defined,
    layer_mean,
    mad,
    mean_curve,
    relative_difference,
)
from layergrad.statistics.effects import Effect, test
from layergrad.statistics.estimates import Estimate, Estimator
from layergrad.statistics.metrics import rounded
from layergrad.statistics.ranks import ranks_table
from layergrad.tables import METRICS, TABLES, write_parts, write_table

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
        Folder that gets one file a table of :data:`layergrad.plan.PAIR_TABLES`, with equal bytes
        for equal input.

    Raises
    ------
    UserError
        If the index or a file that it lists is missing, broken or not the study's.
    """
    cells = read_index(plan, model, dataset, index)
    provenance = {
        "key": plan.statistics_key(model, dataset),
        "pair": [model, dataset],
        "inputs": inputs_of(cells),
        "settings": plan.study.statistics.model_dump(mode="json"),
        "versions": versions("layergrad", "numpy", "polars", "scikit-learn", "scipy"),
    }
    measured: list[MeasuredCell] = []
    write_parts(
        _metrics(plan, model, dataset, cells, measured),
        METRICS,
        output_dir / "metrics.parquet",
        provenance,
    )
    for name, frame in _tables(plan, model, dataset, measured).items():
        write_table(frame, TABLES[name], output_dir / f"{name}.parquet", provenance)
    record = {part: provenance[part] for part in ("key", "pair", "inputs")}
    write_checksums(PAIR_TABLES, output_dir, record)


def _metrics(
    plan: Plan,
    model: str,
    dataset: str,
    cells: list[dict[str, Any]],
    measured: list[MeasuredCell],
) -> Iterator[pl.DataFrame]:
    """Measure one cell after the other: fill `measured`, yield the table METRICS in parts."""
    for cell, long in measure_cells(plan, cells):
        measured.append(cell)
        yield long.with_columns(_names(model, dataset, cell.response, cell.control))


# --------------------------------------------------------------------------------------- tables


def _tables(
    plan: Plan, model: str, dataset: str, measured: list[MeasuredCell]
) -> dict[str, pl.DataFrame]:
    """Return every table of the pair but the metrics."""
    settings = plan.study.statistics
    tables = [table for cell in measured for table in (cell.samples, cell.failures)]
    names = pl.concat([t.select(instruction_of(pl.col("sample_id"))) for t in tables]).to_series()
    drawn = instruction_weights(names.to_list(), settings.draws, settings.seed, dataset)
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in PAIR_TABLES if name != "metrics"}
    correct = {cell.response: cell.values for cell in measured if cell.control == CORRECT}
    for cell in measured:
        found = {"samples": _samples(cell)}
        if cell.values is not None:
            found["lengths"] = _lengths(cell)
            found["curves"], found["mad"] = _curves_and_mad(cell.values, drawn, settings)
            if cell.ranks is not None:
                found["ranks"] = ranks_table(cell.ranks, drawn, settings)
            if cell.control != CORRECT and correct.get(cell.response) is not None:
                found.update(_rd(cell.values, correct[cell.response], drawn, settings))
        for name, frame in found.items():
            cells = _names(model, dataset, cell.response, cell.control)
            parts[name].append(frame.with_columns(cells))
    estimates = _estimates(plan, model, dataset, measured, drawn)
    parts["estimates"] = [estimate_rows(e, model, dataset) for e in estimates]
    parts["discrimination"] = [
        _discrimination_rows(e, settings).with_columns(
            _names(model, dataset, e.contrast, e.control)
        )
        for e in estimates
        if e.name == "auc"
    ]
    return {name: _joined(name, frames) for name, frames in parts.items()}


def _joined(name: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    if not frames:
        return pl.DataFrame(schema=TABLES[name].schema)
    return pl.concat(frames, how="vertical_relaxed").with_columns(rounded(pl.col(pl.Float64)))


def _samples(cell: MeasuredCell) -> pl.DataFrame:
    reasons = sorted(cell.failures["reason"].value_counts().iter_rows())
    means = cell.samples.select(pl.mean("tokens", "response_tokens", "loss"))
    return means.with_columns(
        samples=pl.lit(cell.samples.height),
        failed=pl.lit(cell.failures.height),
        reasons=pl.lit("; ".join(f"{reason}: {count}" for reason, count in reasons)),
    )


def _lengths(cell: MeasuredCell) -> pl.DataFrame:
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
    low, high = interval(draws, found.independent, settings.confidence)
    frame = _grid(layer=range(layers), projection=found.projections, metric=found.metrics)
    curves = frame.with_columns(
        depth=pl.col("layer") / max(layers - 1, 1),
        mean=_column(curve),
        low=_column(low),
        high=_column(high),
        samples=_column(np.isfinite(found.array).sum(axis=0)),
    ).filter(_present(found))
    of_mean, of_draws, of_samples = mad(curve), mad(draws), mad(found.array)
    bands = []
    for band in BANDS:
        low, high = interval(of_draws[band], found.independent, settings.confidence)
        mean_draws = weighted_means(weights, of_samples[band])
        mean_low, mean_high = interval(mean_draws, found.independent, settings.confidence)
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


def _present(found: Values) -> pl.Series:
    """Return which rows of a grid of layers, projections and metrics the model has."""
    return pl.Series(np.repeat(found.present.ravel(), len(found.metrics)))


def _rd(
    wrong: Values, correct: Values, drawn: dict[str, np.ndarray], settings: StatisticsSettings
) -> dict[str, pl.DataFrame]:
    """Return the tables rd and rd_summary, over the instructions that both cells have."""
    rows = sorted(set(wrong.rows) & set(correct.rows))
    if not rows:
        return {}
    wrong, correct = wrong.pick(rows), correct.pick(rows)
    weights, layers = correct.weights(drawn), correct.array.shape[1]
    first, second = jointly_defined(wrong.array, correct.array)
    signed = relative_difference(mean_curve(first), mean_curve(second))
    draws = relative_difference(weighted_means(weights, first), weighted_means(weights, second))
    low, high = interval(draws, correct.independent, settings.confidence)
    by_layer = _grid(layer=range(layers), projection=correct.projections, metric=correct.metrics)
    rd = by_layer.with_columns(
        signed=_column(signed),
        absolute=_column(np.abs(signed)),
        low=_column(low),
        high=_column(high),
        samples=pl.lit(len(rows)),
    ).filter(_present(correct))
    over_layers = layer_mean(np.abs(draws), 1)
    low, high = interval(over_layers, correct.independent, settings.confidence)
    top = rd.sort("absolute", "layer", descending=[True, False], nulls_last=True)
    top = top.group_by("projection", "metric", maintain_order=True).agg(
        top_layers=pl.col("layer").filter(pl.col("absolute").is_not_null()).head(TOP_LAYERS)
    )
    summary = _grid(projection=correct.projections, metric=correct.metrics).with_columns(
        value=_column(layer_mean(np.abs(signed), 0)),
        low=_column(low),
        high=_column(high),
        samples=pl.lit(len(rows)),
    )
    return {"rd": rd, "rd_summary": summary.join(top, on=["projection", "metric"])}


# ------------------------------------------------------------------------------------ estimates


def _estimates(
    plan: Plan,
    model: str,
    dataset: str,
    measured: list[MeasuredCell],
    drawn: dict[str, np.ndarray],
) -> list[Estimate]:
    study, spec = plan.study, plan.study.dataset(dataset)
    measured_projections = [cell.values.projections for cell in measured if cell.values is not None]
    estimator = Estimator(
        cells={(cell.response, cell.control): cell.claim for cell in measured},
        responses=list(spec.responses),
        wrong=[control for control in study.controls_of(spec) if control != CORRECT],
        drawn=drawn,
        projections=[*measured_projections, sorted(study.extraction.projections)][0],
        seed=study.statistics.seed,
        place=f"{model}/{dataset}",
    )
    return list(estimator.all())


def estimate_rows(estimate: Estimate, model: str, dataset: str) -> pl.DataFrame:
    """Return an estimate as rows of the table ESTIMATES, one a projection."""
    count = len(estimate.projections)
    known = estimate.effect is not None
    draws = estimate.draws.T if known else [None] * count
    return pl.DataFrame(
        {
            "projection": estimate.projections,
            "effect": estimate.effect if known else [None] * count,
            "draws": pl.Series([None if d is None else list(d) for d in draws]),
        },
        schema={"projection": pl.String, "effect": pl.Float64, "draws": pl.List(pl.Float64)},
        nan_to_null=True,
    ).with_columns(
        pl.col("draws").list.eval(rounded(pl.element().fill_nan(None))),
        model=pl.lit(model),
        dataset=pl.lit(dataset),
        name=pl.lit(estimate.name),
        contrast=pl.lit(estimate.contrast),
        control=pl.lit(estimate.control),
        variant=pl.lit(estimate.variant),
        samples=pl.lit(estimate.samples),
        reason=pl.lit(estimate.reason),
    )


def _discrimination_rows(estimate: Estimate, settings: StatisticsSettings) -> pl.DataFrame:
    scores = {"metric": metric_label(settings.claim_metric)}
    rows = []
    for place, projection in enumerate(estimate.projections):
        value = low = high = None
        if estimate.effect is not None:
            value = float(estimate.effect[place])
            effect = Effect(value, estimate.samples, estimate.draws[:, place])
            low, high, _ = test(effect, 0.5, settings.confidence)
            low, high = max(low, 0.0), min(high, 1.0)
        rows.append((projection, value, low, high))
    columns = {"projection": pl.String, "auc": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        score=pl.lit(scores.get(estimate.variant, estimate.variant)),
        samples=pl.lit(estimate.samples),
        reason=pl.lit(estimate.reason),
    )


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
