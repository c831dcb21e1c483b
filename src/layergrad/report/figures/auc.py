"""AUC: how well the gradients of single samples tell wrong responses from correct ones."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words

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
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    marks = theme.by_response(responses)
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")
    base = alt.Chart().encode(
        y=alt.Y(
            "projection:N",
            title=None,
            sort=[*words.PROJECTIONS, *BASELINES.values()],
            scale=alt.Scale(padding=0.25),
        ),
        yOffset=alt.YOffset("response:N", sort=responses),
        color=marks["color"],
        opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12)),
    )
    chance = alt.Chart().mark_rule(strokeDash=[4, 3], aria=False).encode(x=alt.datum(0.5))
    interval = base.mark_rule(strokeWidth=2, aria=False).encode(
        x=alt.X("low:Q", title="AUC", scale=scale, axis=axis), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=75, aria=False).encode(
        x=alt.X("auc:Q", title="AUC", scale=scale, axis=axis),
        shape=marks["shape"],
        tooltip=[
            alt.Tooltip("response:N", title="Response"),
            alt.Tooltip("panel:N", title="Score"),
            alt.Tooltip("projection:N", title="Projection"),
            alt.Tooltip("auc:Q", title="AUC", format=".3f"),
            alt.Tooltip("low:Q", title="Interval from", format=".3f"),
            alt.Tooltip("high:Q", title="Interval to", format=".3f"),
            alt.Tooltip("samples:Q", title="Samples"),
        ],
    )
    layers = alt.layer(chance, interval, points, width=330, height=alt.Step(14)).add_params(chosen)
    return layers.facet(
        facet=alt.Facet("panel:N", title=None, sort=list(PANELS)), columns=2, data=data
    )
