"""Base against instruct: the layer curves of a family's models in one picture."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import curves, theme
from layergrad.report.figures.panels import PER_RESPONSE, lines, positive, told

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
    axis = {"title": metric, "scale": theme.scale(log), "axis": theme.value_axis(log)}
    names = {"model:N": "Model", **PER_RESPONSE, "layer:Q": "Layer"}
    figure = lines(
        data,
        responses,
        theme.layer_axis(relative),
        "mean",
        axis,
        told(names, "mean", metric, ".4~g"),
        dash=alt.StrokeDash(
            "tuning:N", title="Tuning", scale=alt.Scale(domain=TUNINGS, range=[[5, 3], [1, 0]])
        ),
        detail="model:N",
    )
    return positive(figure, log)
