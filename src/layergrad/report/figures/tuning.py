"""Base against instruct: the layer curves of a family's models in one picture."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import curves, theme

TUNINGS = ["base", "instruct"]


def rows(table: pl.DataFrame, models: dict[str, tuple[str, str]]) -> pl.DataFrame:
    """Return what the figure shows of the table ``curves`` of one family and dataset.

    Parameters
    ----------
    table
        Table ``curves``.
    models
        Model -> its tuning and its name for people.
    """
    parts = [
        curves.rows(table.filter(model=model)).with_columns(
            tuning=pl.lit(tuning), model=pl.lit(label)
        )
        for model, (tuning, label) in models.items()
    ]
    return pl.concat(parts)


def chart(
    data: pl.DataFrame | alt.NamedData,
    responses: list[str],
    metric: str,
    *,
    relative: bool = False,
    log: bool = True,
) -> alt.FacetChart:
    """Draw a metric against the layer: colour tells responses apart, the dash base from instruct.

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
        Logarithmic vertical axis.
    """
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered("layer")
    marks = theme.by_response(responses)
    faint = alt.when(chosen)
    y = {"title": metric, "scale": theme.scale(log), "axis": theme.value_axis()}
    base = alt.Chart().encode(x=theme.layer_axis(relative), detail="model:N")
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", **y),
        y2="high:Q",
        color=marks["color"],
        opacity=faint.then(alt.value(0.12)).otherwise(alt.value(0.02)),
    )
    line = base.mark_line(aria=False).encode(
        y=alt.Y("mean:Q", **y),
        color=marks["color"],
        strokeDash=alt.StrokeDash(
            "tuning:N", title="Tuning", scale=alt.Scale(domain=TUNINGS, range=[[5, 3], [1, 0]])
        ),
        opacity=faint.then(alt.value(1)).otherwise(alt.value(0.12)),
    )
    points = (
        base.mark_point(filled=True, aria=False, **theme.REACH)
        .encode(
            y=alt.Y("mean:Q", **y),
            color=marks["color"],
            shape=marks["shape"],
            opacity=faint.then(alt.value(1)).otherwise(alt.value(0.1)),
            size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(14)),
            tooltip=[
                alt.Tooltip("model:N", title="Model"),
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
    layers = alt.layer(band, line, points, width=190, height=200).add_params(chosen)
    figure = layers.facet(facet=theme.projection_panels(), columns=4, data=data)
    return figure.transform_filter("datum.low === null || datum.low > 0") if log else figure
