"""Spectra: the mean singular value against its rank, one panel a projection."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


def rows(ranks: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``ranks`` of one model and dataset."""
    return ranks.select(
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        pl.col("band").map_elements(words.band_title, return_dtype=pl.String),
        "rank",
        "mean",
        "low",
        "high",
        "samples",
    )


def chart(
    data: pl.DataFrame | alt.NamedData, responses: list[str], *, log: bool = True
) -> alt.FacetChart:
    """Draw the mean singular value and its interval against the rank.

    Parameters
    ----------
    data
        Rows of one control and band, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    log
        Logarithmic axes.
    """
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered("rank")
    marks = theme.by_response(responses)
    faint = alt.when(chosen)
    y = {"title": "Singular value", "scale": theme.scale(log), "axis": theme.value_axis()}
    base = alt.Chart().encode(
        x=alt.X("rank:Q", title="Rank", scale=theme.scale(log), axis=theme.count_axis())
    )
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", **y),
        y2="high:Q",
        color=marks["color"],
        opacity=faint.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    line = base.mark_line(aria=False).encode(
        y=alt.Y("mean:Q", **y),
        color=marks["color"],
        strokeDash=marks["strokeDash"],
        opacity=faint.then(alt.value(1)).otherwise(alt.value(0.15)),
    )
    points = (
        base.mark_point(filled=True, aria=False, **theme.REACH)
        .encode(
            y=alt.Y("mean:Q", **y),
            color=marks["color"],
            shape=marks["shape"],
            opacity=faint.then(alt.value(1)).otherwise(alt.value(0.1)),
            size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(22)),
            tooltip=[
                alt.Tooltip("response:N", title="Response"),
                alt.Tooltip("projection:N", title="Projection"),
                alt.Tooltip("rank:Q", title="Rank"),
                alt.Tooltip("mean:Q", title="Singular value, mean", format=".4~g"),
                alt.Tooltip("low:Q", title="Interval from", format=".4~g"),
                alt.Tooltip("high:Q", title="Interval to", format=".4~g"),
                alt.Tooltip("samples:Q", title="Samples"),
            ],
        )
        .add_params(hovered)
    )
    layers = alt.layer(band, line, points, width=190, height=200).add_params(chosen)
    figure = layers.facet(facet=theme.projection_panels(), columns=4, data=data)
    return figure.transform_filter("datum.low === null || datum.low > 0") if log else figure
