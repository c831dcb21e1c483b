"""Layer curves: a metric against the layer, one panel a projection, one line a response."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


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
    x = theme.layer_axis(relative)
    y = alt.Y("mean:Q", title=metric, scale=theme.scale(log), axis=theme.value_axis())
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered("layer")
    marks = theme.by_response(responses)
    faint = alt.when(chosen)
    base = alt.Chart().encode(x=x)
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", title=metric, scale=theme.scale(log), axis=theme.value_axis()),
        y2="high:Q",
        color=marks["color"],
        opacity=faint.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    line = base.mark_line(aria=False).encode(
        y=y,
        color=marks["color"],
        strokeDash=marks["strokeDash"],
        opacity=faint.then(alt.value(1)).otherwise(alt.value(0.15)),
    )
    points = (
        base.mark_point(filled=True, aria=False, **theme.REACH)
        .encode(
            y=y,
            color=marks["color"],
            shape=marks["shape"],
            opacity=faint.then(alt.value(1)).otherwise(alt.value(0.1)),
            size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(22)),
            tooltip=[
                alt.Tooltip("response:N", title="Response"),
                alt.Tooltip("projection:N", title="Projection"),
                alt.Tooltip("layer:Q", title="Layer"),
                alt.Tooltip("mean:Q", title=metric, format=".4~g"),
                alt.Tooltip("low:Q", title="Interval from", format=".4~g"),
                alt.Tooltip("high:Q", title="Interval to", format=".4~g"),
                alt.Tooltip("samples:Q", title="Samples"),
            ],
        )
        .add_params(hovered)
    )
    rule = base.mark_rule(strokeDash=[3, 3], aria=False).transform_filter(hovered)
    layers = alt.layer(rule, band, line, points, width=190, height=200).add_params(chosen)
    figure = layers.facet(
        facet=theme.projection_panels(),
        columns=4,
        data=data,
    )
    return figure.transform_filter("datum.low === null || datum.low > 0") if log else figure
