"""Samples: how many were measured in each cell, and how many failed."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words

STATES = ["measured", "failed"]
ORDER = [title + cut for cut in ("", words.CUT) for title in words.RESPONSES.values()]


def rows(samples: pl.DataFrame, labels: dict[str, str]) -> pl.DataFrame:
    """Return counts of samples measured and fallen out.

    Parameters
    ----------
    samples
        Table ``samples``.
    labels
        Names for people of models and datasets.
    """
    counts = samples.select(
        pl.col("model").replace(labels),
        pl.col("dataset").replace(labels),
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "control",
        pl.col("samples").alias(STATES[0]),
        pl.col("failed").alias(STATES[1]),
        "reasons",
    )
    keys = ["model", "dataset", "response", "control", "reasons"]
    return counts.unpivot(STATES, index=keys, variable_name="state", value_name="count").sort(
        "model", "dataset", "response", "control", "state"
    )


def chart(data: pl.DataFrame | alt.NamedData, datasets: list[str]) -> alt.FacetChart:
    """Draw the counts of :func:`rows`, all models and controls together, one panel a dataset.

    Parameters
    ----------
    data
        Rows as :func:`rows` gives them.
    datasets
        Names of the datasets for people, in the order of their panels.
    """
    bars = (
        alt.Chart()
        .mark_bar(aria=False, stroke="white")
        .encode(
            x=alt.X("sum(count):Q", title="Samples", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("response:N", title=None, sort=ORDER),
            color=alt.Color(
                "state:N",
                title="Samples",
                scale=alt.Scale(domain=STATES, range=["#5b7f95", theme.COLOURS[0]]),
            ),
            order=alt.Order("state:N", sort="descending"),
            tooltip=[
                alt.Tooltip("dataset:N", title="Dataset"),
                alt.Tooltip("response:N", title="Response"),
                alt.Tooltip("state:N", title="State"),
                alt.Tooltip("sum(count):Q", title="Samples"),
            ],
        )
        .properties(width=190, height=alt.Step(22))
    )
    return (
        bars.facet(facet=alt.Facet("dataset:N", title=None, sort=datasets), columns=3, data=data)
        .resolve_scale(y="independent")
        .resolve_axis(x="independent")
    )
