"""The numbers that captions state, computed from the rows that a figure shows.

Each function takes the rows of one metric and one control and returns plain values for a template.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from layergrad.report.figures import words


def curves(rows: pl.DataFrame) -> dict[str, Any]:
    """Return means over the layers, the largest layer, and the ratio of first to last response."""
    means = rows.group_by("response", "projection").agg(
        mean=pl.col("mean").mean(),
        peak=pl.col("layer").sort_by("mean", "layer", descending=[True, False]).first(),
    )
    return {
        **_common(rows),
        "layers": rows["layer"].n_unique(),
        "means": _by_response(means, "mean"),
        "peaks": _by_response(means, "peak"),
        "ratio": _ratio(means, "mean"),
    }


def mad(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the MAD over all layers, and in which band each response changes most."""
    whole = rows.filter(band=words.band_title("all"))
    bands = rows.filter(pl.col("band") != words.band_title("all"), pl.col("value").is_not_null())
    mean = bands.group_by("response", "band").agg(pl.col("value").mean()).sort("response", "band")
    steepest = mean.sort("value", descending=True).unique("response", keep="first")
    return {
        **_common(rows),
        "values": _by_response(whole, "value"),
        "ratio": _ratio(whole, "value"),
        "steepest": dict(steepest.select("response", "band").iter_rows()),
    }


def rd(rows: pl.DataFrame) -> dict[str, Any]:
    """Return means over the layers, and the share of layers whose interval leaves out zero."""
    apart = ((pl.col("low") > 0) | (pl.col("high") < 0)).fill_null(False)
    means = rows.group_by("response").agg(
        signed=pl.col("signed").mean(),
        absolute=pl.col("signed").abs().mean(),
        apart=apart.sum(),
        places=pl.len(),
    )
    return {
        **_common(rows),
        "layers": rows["layer"].n_unique(),
        "by_response": {row["response"]: row for row in means.iter_rows(named=True)},
    }


def length(rows: pl.DataFrame) -> dict[str, Any]:
    """Return median lengths, and slope and rank correlation of the logarithms by projection."""
    x, y = pl.col("response_tokens").log(), pl.col("value").log()
    usable = rows.filter(pl.col("value") > 0, pl.col("response_tokens") > 0)
    fits = usable.group_by("projection").agg(
        slope=pl.cov(x, y) / x.var(), rank=pl.corr(x, y, method="spearman")
    )
    order = words.in_order(rows["projection"], words.PROJECTIONS)
    found = {row["projection"]: row for row in fits.iter_rows(named=True)}
    medians = rows.group_by("response").agg(pl.col("response_tokens").median())
    return {
        "points": rows.height,
        "rows": rows["row"].n_unique(),
        "projections": order,
        "medians": dict(medians.iter_rows()),
        "fits": [found[p] for p in order if p in found],
    }


def _common(rows: pl.DataFrame) -> dict[str, Any]:
    samples = rows["samples"]
    return {
        "samples": (samples.min(), samples.max()),
        "projections": words.in_order(rows["projection"], words.PROJECTIONS),
    }


def _by_response(frame: pl.DataFrame, column: str) -> dict[str, list[Any]]:
    """Return for each response the values of its projections, in their usual order."""
    order = words.in_order(frame["projection"], words.PROJECTIONS)
    found = {
        (r, p): value for r, p, value in frame.select("response", "projection", column).iter_rows()
    }
    return {
        response: [found.get((response, projection)) for projection in order]
        for response in frame["response"].unique().sort()
    }


def _ratio(frame: pl.DataFrame, column: str) -> dict[tuple[str, str], float]:
    """Return for each pair of responses the mean over projections of the ratio of their values."""
    values = frame.select("projection", "response", pl.col(column).alias("value"))
    pairs = values.join(values, on="projection", suffix="_other").filter(pl.col("value_other") > 0)
    ratios = pairs.group_by("response", "response_other").agg(
        (pl.col("value") / pl.col("value_other")).mean()
    )
    return {(one, other): value for one, other, value in ratios.iter_rows()}
