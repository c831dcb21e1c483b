"""Spectra: the mean singular value against its rank, one panel a projection."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words
from layergrad.report.figures.panels import PER_RESPONSE, lines, positive, told


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
    x = alt.X("rank:Q", title="Rank", scale=theme.scale(log), axis=theme.count_axis(log))
    axis = {"title": "Singular value", "scale": theme.scale(log), "axis": theme.value_axis(log)}
    names = {**PER_RESPONSE, "rank:Q": "Rank"}
    tooltip = told(names, "mean", "Singular value, mean", ".4~g")
    return positive(lines(data, responses, x, "mean", axis, tooltip, hover="rank"), log)
