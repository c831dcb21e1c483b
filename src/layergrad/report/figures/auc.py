"""AUC: how well the gradients of single samples tell wrong responses from correct ones."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import words
from layergrad.report.figures.panels import dots, told

BASELINES = {"response_tokens": "length alone", "loss": "loss alone"}
PANELS = ("By the mean over layers", "By a classifier of the curve")


def rows(discrimination: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``discrimination`` of one model and dataset.

    What length or loss alone would tell stands in both panels, for comparison.
    """
    score = pl.col("score")
    named = discrimination.filter(pl.col("auc").is_not_null()).with_columns(
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        pl.coalesce("projection", score.replace(BASELINES)).alias("projection"),
    )
    classified, plain = score == "classifier", score.is_in(list(BASELINES))
    parts = [(PANELS[0], ~classified), (PANELS[1], classified | plain)]
    return pl.concat(
        named.filter(wanted)
        .with_columns(panel=pl.lit(panel))
        .select("control", "response", "panel", "projection", "auc", "low", "high", "samples")
        for panel, wanted in parts
    )


def chart(data: pl.DataFrame | alt.NamedData, responses: list[str]) -> alt.FacetChart:
    """Draw the AUC of each projection and response with its interval, one panel a way to score.

    Parameters
    ----------
    data
        Rows of one control, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    """
    y = alt.Y(
        "projection:N",
        title=None,
        sort=[*words.PROJECTIONS, *BASELINES.values()],
        scale=alt.Scale(padding=0.25),
        axis=alt.Axis(grid=True, tickBand="extent", ticks=False),
    )
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")
    names = {"response:N": "Response", "panel:N": "Score", "projection:N": "Projection"}
    return dots(
        data,
        responses,
        y,
        "auc",
        {"title": "AUC", "scale": alt.Scale(domain=[0, 1], nice=False), "axis": axis},
        told(names, "auc", "AUC", ".3f"),
        alt.Facet("panel:N", title=None, sort=list(PANELS)),
        under=[alt.Chart().mark_rule(strokeDash=[4, 3], aria=False).encode(x=alt.datum(0.5))],
        columns=2,
        width=330,
        height=alt.Step(14),
    )
