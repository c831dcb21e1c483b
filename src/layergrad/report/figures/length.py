"""Length against gradient: one point a sample, both axes logarithmic."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words

# Altair refuses more than 5000 rows; a plot with more points tells no more.
MOST_ROWS = 4800


def rows(lengths: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``lengths`` of one model and dataset."""
    return lengths.select(
        "metric",
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        "row",
        "response_tokens",
        "loss",
        "value",
    )


def thinned(rows: pl.DataFrame, most: int = MOST_ROWS) -> pl.DataFrame:
    """Return about `most` rows at most: every second, third, ... instruction.

    The same instructions of every cell are kept, so that the comparison stays paired.
    """
    every = -(-rows.height // most)
    return rows.filter(pl.col("row").rank("dense") % every == 0) if every > 1 else rows


def chart(
    data: pl.DataFrame | alt.NamedData, responses: list[str], metric: str, *, log: bool = True
) -> alt.FacetChart:
    """Draw a metric, averaged over layers, against the response's tokens, one panel a projection.

    Parameters
    ----------
    data
        Rows of one metric and control, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    metric
        Title of the metric.
    log
        Logarithmic axes.
    """
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered("row")
    marks = theme.by_response(responses)
    points = (
        alt.Chart()
        .mark_point(filled=True, aria=False)
        .encode(
            x=alt.X(
                "response_tokens:Q",
                title="Response tokens",
                scale=theme.scale(log),
                axis=theme.count_axis(log),
            ),
            y=alt.Y("value:Q", title=metric, scale=theme.scale(log), axis=theme.value_axis(log)),
            color=marks["color"],
            shape=marks["shape"],
            opacity=alt.when(chosen).then(alt.value(0.65)).otherwise(alt.value(0.05)),
            size=alt.when(hovered).then(alt.value(140)).otherwise(alt.value(36)),
            tooltip=[
                alt.Tooltip("response:N", title="Response"),
                alt.Tooltip("projection:N", title="Projection"),
                alt.Tooltip("row:Q", title="Row of the dataset"),
                alt.Tooltip("response_tokens:Q", title="Response tokens"),
                alt.Tooltip("value:Q", title=f"{metric}, mean over layers", format=".4~g"),
                alt.Tooltip("loss:Q", title="Loss", format=".3~g"),
            ],
        )
        .properties(width=190, height=200)
        .add_params(chosen, hovered)
    )
    figure = points.facet(
        facet=theme.projection_panels(),
        columns=4,
        data=data,
    )
    return figure.transform_filter("datum.value > 0") if log else figure
