"""Knowledge and length: whether a longer response does to gradients what more thinking does."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words

TASKS = ["reasoning", "knowledge"]


def rows(lengths: pl.DataFrame, datasets: dict[str, tuple[str, str]], control: str) -> pl.DataFrame:
    """Return medians and quartiles over the samples of one model, by dataset and response.

    Parameters
    ----------
    lengths
        Table ``lengths`` of one model.
    datasets
        Dataset -> its task and its name for people.
    control
        The control whose responses are shown.
    """
    tasks = {name: task for name, (task, _) in datasets.items()}
    labels = {name: label for name, (_, label) in datasets.items()}
    value, tokens = pl.col("value"), pl.col("response_tokens")
    return (
        lengths.filter(control=control)
        .group_by("metric", "dataset", "response", "projection")
        .agg(
            tokens=tokens.median(),
            value=value.median(),
            low=value.quantile(0.25, interpolation="linear"),
            high=value.quantile(0.75, interpolation="linear"),
            samples=pl.len(),
        )
        .with_columns(
            task=pl.col("dataset").replace_strict(tasks),
            dataset=pl.col("dataset").replace_strict(labels),
            response=pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        )
        .sort("metric", "task", "dataset", "projection", "tokens", "response")
    )


def chart(data: pl.DataFrame | alt.NamedData, metric: str, *, log: bool = True) -> alt.FacetChart:
    """Draw a metric against the length of the response, one line a dataset, one panel a projection.

    Parameters
    ----------
    data
        Rows of one metric, as :func:`rows` gives them.
    metric
        Title of the metric.
    log
        Logarithmic axes.
    """
    chosen = alt.selection_point(name="chosen", fields=["task"], bind="legend")
    y = {"title": metric, "scale": theme.scale(log), "axis": theme.value_axis(log)}
    shown = {"title": "Task", "legend": alt.Legend(symbolOpacity=1)}
    faint = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.1))
    colour = alt.Color(
        "task:N", scale=alt.Scale(domain=TASKS, range=list(theme.COLOURS[:2])), **shown
    )
    base = alt.Chart().encode(
        x=alt.X(
            "tokens:Q",
            title="Response tokens, median",
            scale=theme.scale(log),
            axis=theme.count_axis(log),
        ),
        color=colour,
        opacity=faint,
    )
    line = base.mark_line(aria=False).encode(
        y=alt.Y("value:Q", **y),
        detail="dataset:N",
        strokeDash=alt.StrokeDash(
            "task:N", scale=alt.Scale(domain=TASKS, range=list(theme.DASHES[:2])), **shown
        ),
    )
    quartiles = base.mark_rule(aria=False).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    points = base.mark_point(filled=True, size=75, aria=False).encode(
        y=alt.Y("value:Q", **y),
        shape=alt.Shape(
            "task:N", scale=alt.Scale(domain=TASKS, range=list(theme.SHAPES[:2])), **shown
        ),
        tooltip=[
            alt.Tooltip("dataset:N", title="Dataset"),
            alt.Tooltip("response:N", title="Response"),
            alt.Tooltip("projection:N", title="Projection"),
            alt.Tooltip("tokens:Q", title="Response tokens, median"),
            alt.Tooltip("value:Q", title=f"{metric}, median", format=".4~g"),
            alt.Tooltip("low:Q", title="Lower quartile", format=".4~g"),
            alt.Tooltip("high:Q", title="Upper quartile", format=".4~g"),
            alt.Tooltip("samples:Q", title="Samples"),
        ],
    )
    layers = alt.layer(line, quartiles, points, width=190, height=200).add_params(chosen)
    figure = layers.facet(facet=theme.projection_panels(), columns=4, data=data)
    return figure.transform_filter("datum.low > 0 && datum.tokens > 0") if log else figure
