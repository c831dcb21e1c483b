"""Length controls: whether an effect of thinking stands when length is taken out."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words

# Parts of claims that length may explain -> titles of their panels.
PANELS = {
    "1. size": "1. Larger gradients",
    "2. all": "2. Larger MAD",
    "2. early": "2. MAD, early layers",
    "6. size": "6. Thinking beyond length",
}


def rows(findings: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``findings`` of one model and dataset.

    Effects of different ways of measuring have different units. What can be compared is their
    distance from the claim's reference in half-widths of their own interval: `place`; `from` and
    `to` are one half-width to either side, so the interval leaves out the reference where both have
    one sign.
    """
    part = pl.format("{}. {}", "claim", "part")
    place = (pl.col("effect") - pl.col("reference")) / ((pl.col("high") - pl.col("low")) / 2)
    place = pl.when(pl.col("high") > pl.col("low")).then(place)
    return (
        findings.with_columns(part=part)
        .filter(pl.col("part").is_in(list(PANELS)))
        .with_columns(
            panel=pl.col("part").replace(PANELS),
            way=pl.col("variant").replace(words.VARIANTS),
            place=place.round_sig_figs(5),
        )
        .select(
            "panel",
            "way",
            "projection",
            "contrast",
            "effect_name",
            "effect",
            "low",
            "high",
            "q",
            "verdict",
            "reason",
            "samples",
            "place",
            (pl.col("place") - 1).alias("from"),
            (pl.col("place") + 1).alias("to"),
        )
    )


def chart(data: pl.DataFrame | alt.NamedData) -> alt.FacetChart:
    """Draw each effect with its interval, by way of taking length out, one panel a claim.

    Parameters
    ----------
    data
        Rows as :func:`rows` gives them. Within a way one mark a projection.
    """
    verdicts = list(words.VERDICTS)
    x = {
        "title": "Effect, in half-widths",
        "scale": alt.Scale(type="symlog", constant=1, padding=8),
        "axis": alt.Axis(values=[-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100]),
    }
    shown = {"title": "The claim is", "legend": alt.Legend(symbolOpacity=1)}
    base = alt.Chart().encode(
        y=alt.Y("way:N", title=None, sort=list(words.VARIANTS.values())),
        yOffset=alt.YOffset("projection:N", sort=list(words.PROJECTIONS)),
        color=alt.Color(
            "verdict:N",
            scale=alt.Scale(domain=verdicts, range=list(words.VERDICTS.values())),
            **shown,
        ),
    )
    reference = alt.Chart().mark_rule(strokeDash=[4, 3], aria=False).encode(x=alt.datum(0))
    interval = base.mark_rule(strokeWidth=2, aria=False).encode(x=alt.X("from:Q", **x), x2="to:Q")
    points = base.mark_point(filled=True, size=60, opacity=1, aria=False).encode(
        x=alt.X("place:Q", **x),
        shape=alt.Shape(
            "verdict:N",
            scale=alt.Scale(domain=verdicts, range=list(theme.SHAPES[: len(verdicts)])),
            **shown,
        ),
        tooltip=[
            alt.Tooltip("projection:N", title="Projection"),
            alt.Tooltip("way:N", title="Length"),
            alt.Tooltip("contrast:N", title="Contrast"),
            alt.Tooltip("effect_name:N", title="Effect"),
            alt.Tooltip("effect:Q", title="Size", format=".3~g"),
            alt.Tooltip("low:Q", title="Interval from", format=".3~g"),
            alt.Tooltip("high:Q", title="Interval to", format=".3~g"),
            alt.Tooltip("q:Q", title="q", format=".2~g"),
            alt.Tooltip("verdict:N", title="Verdict"),
            alt.Tooltip("samples:Q", title="Samples"),
        ],
    )
    layers = alt.layer(reference, interval, points, width=230, height=alt.Step(11))
    return layers.facet(
        facet=alt.Facet("panel:N", title=None, sort=list(PANELS.values())),
        columns=3,
        data=data,
    )
