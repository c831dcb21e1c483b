"""RD: relative difference of wrong against correct responses, layer by layer."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words
from layergrad.report.figures.panels import PER_RESPONSE, lines, told


def rows(rd: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``rd`` of one model and dataset."""
    last = pl.max_horizontal(pl.col("layer").max(), 1)
    return rd.select(
        "metric",
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        "layer",
        (pl.col("layer") / last).round(4).alias("depth"),
        "signed",
        "low",
        "high",
        "samples",
    )


def chart(
    data: pl.DataFrame | alt.NamedData, responses: list[str], metric: str, *, relative: bool = False
) -> alt.FacetChart:
    """Draw the signed relative difference against the layer, one panel a projection.

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
    """
    title = "Relative difference"
    percent = alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+~%')")
    zero = alt.Chart().mark_rule(strokeWidth=1.5, aria=False).encode(y=alt.datum(0))
    tooltip = told(
        {**PER_RESPONSE, "layer:Q": "Layer"},
        "signed",
        f"{title}, {words.within_sentence(metric)}",
        "+.2%",
    )
    return lines(
        data,
        responses,
        theme.layer_axis(relative),
        "signed",
        {"title": title, "axis": percent},
        tooltip,
        under=[zero],
    )
