"""The numbers that captions state, computed from the rows that a figure shows.

Each function takes the rows of one metric and one control and returns plain values for a template.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from layergrad.report.figures import words
from layergrad.report.figures.auc import BASELINES, PANELS
from layergrad.report.figures.controls import PANELS as CONTROL_PANELS


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


def auc(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the mean AUC over projections by panel and response, and that of the baselines."""
    baseline = pl.col("projection").is_in(list(BASELINES.values()))
    found: dict[str, dict[str, float]] = {}
    parts = {panel: rows.filter(~baseline, panel=panel) for panel in PANELS}
    parts |= {name: rows.filter(projection=name, panel=PANELS[0]) for name in BASELINES.values()}
    for name, part in parts.items():
        if part.height:
            means = part.group_by("response").agg(pl.col("auc").mean())
            found[name] = dict(means.iter_rows())
    return {**_common(rows), "panels": found}


def controls(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the verdicts counted by claim and way of taking length out, and why some lack one."""
    counts = rows.group_by("panel", "way", "verdict").agg(pl.len()).sort("panel", "way", "verdict")
    found: dict[str, dict[str, dict[str, int]]] = {}
    for panel, way, verdict, count in counts.iter_rows():
        found.setdefault(panel, {}).setdefault(way, {})[verdict] = count
    missing = rows.filter(verdict="not testable").group_by("way").agg(pl.col("reason").first())
    order = list(words.VARIANTS.values())
    return {
        **_common(rows.filter(pl.col("effect").is_not_null())),
        "claims": {
            panel: {way: found[panel][way] for way in words.in_order(found[panel], order)}
            for panel in words.in_order(found, CONTROL_PANELS.values())
        },
        "reasons": dict(missing.sort("way").iter_rows()),
    }


def spectra(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the largest singular values, and the last rank above a tenth of the largest."""
    whole = rows.filter(band=words.band_title("all"))
    largest = whole.filter(rank=1).select("response", "projection", "mean")
    mean = whole.group_by("response", "rank").agg(pl.col("mean").mean())
    above = mean.filter(pl.col("mean") >= pl.col("mean").max().over("response") / 10)
    return {
        **_common(whole),
        "first_values": _by_response(largest, "mean"),
        "tenth": dict(above.group_by("response").agg(pl.col("rank").max()).iter_rows()),
    }


def tuning(rows: pl.DataFrame) -> dict[str, Any]:
    """Return by response the ratio of instruct to base, averaged over layers and projections."""
    means = rows.group_by("tuning", "response", "projection").agg(pl.col("mean").mean())
    sides = [means.filter(tuning=side).drop("tuning") for side in ("instruct", "base")]
    both = sides[0].join(sides[1], on=["response", "projection"], suffix="_base")
    ratios = both.filter(pl.col("mean_base") > 0).group_by("response")
    gaps = {side: _ratio(means.filter(tuning=side), "mean") for side in ("base", "instruct")}
    return {
        **_common(rows),
        "models": rows["model"].unique().sort().to_list(),
        "ratios": dict(ratios.agg((pl.col("mean") / pl.col("mean_base")).mean()).iter_rows()),
        "gaps": gaps,
    }


def knowledge(rows: pl.DataFrame) -> dict[str, Any]:
    """Return by dataset how a metric changes from its shortest response to its longest.

    ``slope`` is the mean over projections of the slope of the logarithms between the two medians.
    """
    ends = (
        rows.filter(pl.col("value") > 0)
        .group_by("task", "dataset", "projection")
        .agg(
            tokens=pl.col("tokens").sort_by("tokens").last()
            / pl.col("tokens").sort_by("tokens").first(),
            value=pl.col("value").sort_by("tokens").last()
            / pl.col("value").sort_by("tokens").first(),
        )
    )
    found = (
        ends.filter(pl.col("tokens") > 1)
        .group_by("task", "dataset")
        .agg(
            longer=pl.col("tokens").mean(),
            ratio=pl.col("value").mean(),
            slope=(pl.col("value").log() / pl.col("tokens").log()).mean(),
        )
        .sort("task", "dataset", descending=[True, False])
    )
    return {**_common(rows), "datasets": found.to_dicts()}


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
