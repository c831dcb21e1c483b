"""The original study's figure: one panel a response, one line a projection, one linear axis."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


def chart(rows: pl.DataFrame, responses: list[str], metric: str) -> alt.FacetChart:
    """Draw a metric against the layer for each response: correct solid, wrong dashed.

    Parameters
    ----------
    rows
        Rows of one metric, all controls, as :func:`layergrad.report.figures.curves.rows` gives
        them.
    responses
        Titles of the responses, fast to slow: the order of the panels.
    metric
        Title of the metric.
    """
    projections = words.in_order(rows["projection"], words.PROJECTIONS)
    controls = words.in_order(rows["control"], ["correct"])
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=1.6)
        .encode(
            x=theme.layer_axis(relative=False),
            y=alt.Y("mean:Q", title=metric, axis=theme.value_axis(), scale=alt.Scale(zero=True)),
            color=alt.Color(
                "projection:N", title="Projection", scale=theme.named(theme.COLOURS, projections)
            ),
            strokeDash=alt.StrokeDash(
                "control:N", title="Control", scale=theme.named(theme.DASHES, controls)
            ),
        )
        .properties(width=210, height=170)
    )
    return lines.facet(
        facet=alt.Facet("response:N", title=None, sort=responses), columns=3, data=rows
    )
