"""The curves of two studies side by side: one's own beside published ones, say."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from layergrad.errors import UserError
from layergrad.provenance import digest
from layergrad.statistics.metrics import rounded
from layergrad.tables import COMPARISON, CURVES, read_table, write_table

KEYS = list(COMPARISON.key)


def compare(
    ours: Path, theirs: Path, output: Path, models: dict[str, str] | None = None
) -> pl.DataFrame:
    """Write the table COMPARISON of two studies and return it.

    Parameters
    ----------
    ours, theirs
        Tables CURVES, or the folders ``data/statistics`` that they lie in.
    output
        Table to write, Parquet or CSV by its ending.
    models
        Name of a model in `ours` -> its name in `theirs`. Models of the same name match anyway, and
        so do the only models of both.

    Raises
    ------
    UserError
        If the studies have no model, or no cell, metric and layer, in common.
    """
    files = [_curves_file(path) for path in (ours, theirs)]
    first, second = (read_table(file, CURVES) for file in files)
    second = second.with_columns(pl.col("model").replace(_names(first, second, models or {})))
    joined = (
        first.select(*KEYS, "depth", ours="mean")
        .join(second.select(*KEYS, theirs="mean"), on=KEYS)
        .with_columns(difference=(pl.col("ours") - pl.col("theirs")) / pl.col("theirs"))
        .with_columns(relative_difference=_finite("difference"))
        .drop("difference")
        .with_columns(rounded(pl.col("relative_difference")))
    )
    if joined.is_empty():
        raise UserError(
            f"{files[0]} and {files[1]} share no cell, metric and layer:\n"
            f"  ours:   {_contents(first)}\n  theirs: {_contents(second)}"
        )
    if output.suffix == ".csv":
        output.parent.mkdir(parents=True, exist_ok=True)
        joined.sort(KEYS).select(list(COMPARISON.schema)).write_csv(output)
    else:
        inputs = {str(file): digest(file, "sha256") for file in files}
        write_table(joined, COMPARISON, output, {"inputs": inputs})
    return joined


def summary(comparison: pl.DataFrame) -> pl.DataFrame:
    """Return, for each cell, projection and metric, how far apart the curves are."""
    difference = pl.col("relative_difference")
    keys = [name for name in KEYS if name != "layer"]
    return (
        comparison.group_by(keys)
        .agg(
            layers=pl.len(),
            mean_difference=difference.mean(),
            mean_absolute=difference.abs().mean(),
            largest=difference.abs().max(),
            at_layer=pl.col("layer").sort_by(difference.abs(), nulls_last=False).last(),
        )
        .sort(keys)
    )


def _curves_file(path: Path) -> Path:
    return path / "curves.parquet" if path.is_dir() else path


def _names(first: pl.DataFrame, second: pl.DataFrame, models: dict[str, str]) -> dict[str, str]:
    """Return how the models of `second` are called in `first`."""
    known = [frame["model"].unique().sort().to_list() for frame in (first, second)]
    for name, side in [*((n, 0) for n in models), *((n, 1) for n in models.values())]:
        if name not in known[side]:
            where = ("ours", "theirs")[side]
            raise UserError(f"no model {name!r} in {where}; it has {', '.join(known[side])}")
    names = {theirs: ours for ours, theirs in models.items()}
    if not names and not set(known[0]) & set(known[1]):
        if len(known[0]) == len(known[1]) == 1:
            return {known[1][0]: known[0][0]}
        raise UserError(
            f"no model in common: ours has {', '.join(known[0])}, theirs {', '.join(known[1])}; "
            "say which are the same with --same OURS=THEIRS"
        )
    return names


def _finite(name: str) -> pl.Expr:
    return pl.when(pl.col(name).is_finite()).then(pl.col(name))


def _contents(curves: pl.DataFrame) -> str:
    names = ("dataset", "response", "control", "metric")
    return "; ".join(f"{n} {', '.join(curves[n].unique().sort())}" for n in names)
