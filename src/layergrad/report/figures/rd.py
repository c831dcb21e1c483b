"""RD: relative difference of wrong against correct responses, layer by layer."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


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
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered("layer")
    marks = theme.by_response(responses)
    faint = alt.when(chosen)
    percent = alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+~%')")
    base = alt.Chart().encode(x=theme.layer_axis(relative))
    zero = alt.Chart().mark_rule(strokeWidth=1.5, aria=False).encode(y=alt.datum(0))
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", title=title, axis=percent),
        y2="high:Q",
        color=marks["color"],
        opacity=faint.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    line = base.mark_line(aria=False).encode(
        y=alt.Y("signed:Q", title=title, axis=percent),
        color=marks["color"],
        strokeDash=marks["strokeDash"],
        opacity=faint.then(alt.value(1)).otherwise(alt.value(0.15)),
    )
    points = (
        base.mark_point(filled=True, aria=False, **theme.REACH)
        .encode(
            y=alt.Y("signed:Q", title=title, axis=percent),
            color=marks["color"],
            shape=marks["shape"],
            opacity=faint.then(alt.value(1)).otherwise(alt.value(0.1)),
            size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(22)),
            tooltip=[
                alt.Tooltip("response:N", title="Response"),
                alt.Tooltip("projection:N", title="Projection"),
                alt.Tooltip("layer:Q", title="Layer"),
                alt.Tooltip(
                    "signed:Q", title=f"{title}, {words.within_sentence(metric)}", format="+.2%"
                ),
                alt.Tooltip("low:Q", title="Interval from", format="+.2%"),
                alt.Tooltip("high:Q", title="Interval to", format="+.2%"),
                alt.Tooltip("samples:Q", title="Samples"),
            ],
        )
        .add_params(hovered)
    )
    rule = base.mark_rule(strokeDash=[3, 3], aria=False).transform_filter(hovered)
    layers = alt.layer(zero, rule, band, line, points, width=190, height=200).add_params(chosen)
    return layers.facet(
        facet=theme.projection_panels(),
        columns=4,
        data=data,
    )
