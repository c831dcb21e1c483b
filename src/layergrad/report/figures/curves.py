"""Layer curves: a metric against the layer, one panel a projection, one line a response."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words
from layergrad.report.figures.panels import PER_RESPONSE, lines, positive, told


def rows(curves: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``curves`` of one model and dataset."""
    return curves.select(
        "metric",
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        "layer",
        "depth",
        "mean",
        "low",
        "high",
        "samples",
    )


def chart(
    data: pl.DataFrame | alt.NamedData,
    responses: list[str],
    metric: str,
    *,
    relative: bool = False,
    log: bool = True,
) -> alt.FacetChart:
    """Draw mean and interval of a metric against the layer.

    Parameters
    ----------
    data
        Rows of one metric and control, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    metric
        Title of the metric.
    relative
        Depth from 0 to 1 instead of the layer's number.
    log
        Logarithmic vertical axis: equal distances are equal ratios.
    """
    axis = {"title": metric, "scale": theme.scale(log), "axis": theme.value_axis(log)}
    tooltip = told({**PER_RESPONSE, "layer:Q": "Layer"}, "mean", metric, ".4~g")
    return positive(lines(data, responses, theme.layer_axis(relative), "mean", axis, tooltip), log)
