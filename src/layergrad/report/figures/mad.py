"""MAD: how much a curve changes from layer to layer, by projection, response and band of depth."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words
from layergrad.report.figures.panels import PER_RESPONSE, dots, positive, told


def rows(mad: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``mad`` of one model and dataset."""
    return mad.select(
        "metric",
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        pl.col("band").map_elements(words.band_title, return_dtype=pl.String),
        "value",
        "low",
        "high",
        "samples",
    )


def chart(
    data: pl.DataFrame | alt.NamedData, responses: list[str], metric: str, *, log: bool = True
) -> alt.FacetChart:
    """Draw the MAD of each projection and response with its interval, one panel a band.

    Parameters
    ----------
    data
        Rows of one metric and control, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    metric
        Title of the metric.
    log
        Logarithmic horizontal axis.
    """
    title = f"MAD of the {words.within_sentence(metric)}"
    y = alt.Y(
        "projection:N",
        title="Projection",
        sort=list(words.PROJECTIONS),
        scale=alt.Scale(padding=0.25),
        axis=alt.Axis(grid=True, tickBand="extent", ticks=False),
    )
    figure = dots(
        data,
        responses,
        y,
        "value",
        {"title": title, "scale": theme.scale(log, zero=True), "axis": theme.value_axis(log)},
        told({**PER_RESPONSE, "band:N": "Layers"}, "value", title, ".4~g"),
        alt.Facet("band:N", title=None, sort=list(words.BANDS.values())),
        columns=4,
        width=190,
        height=alt.Step(16),
    )
    return positive(figure, log)
