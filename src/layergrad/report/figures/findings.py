"""Findings: how many tests of each claim support it, before and after length is taken out."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


def rows(findings: pl.DataFrame) -> pl.DataFrame:
    """Return the number of tests by claim, part, variant and verdict."""
    claim = pl.format("{}. {}", "claim", "part").replace(words.PARTS)
    variant = pl.col("variant").replace(words.VARIANTS)
    return (
        findings.select(claim=claim, way=variant, verdict="verdict")
        .group_by("claim", "way", "verdict")
        .agg(tests=pl.len())
        .with_columns(
            label=pl.format("{} {}", pl.col("verdict").replace(words.VERDICT_SIGNS), "tests"),
            place=pl.col("verdict").replace_strict({v: i for i, v in enumerate(words.VERDICTS)}),
        )
        .sort("claim", "way", "place")
    )


def chart(data: pl.DataFrame) -> alt.FacetChart:
    """Draw the counts of :func:`rows` as bars, one panel a claim, one bar a way of testing it."""
    base = (
        alt.Chart()
        .encode(
            y=alt.Y("way:N", title=None, sort=list(words.VARIANTS.values())),
            order=alt.Order("place:Q"),
        )
        .properties(width=330, height=alt.Step(22))
    )
    share = {
        "title": "Share of tests",
        "stack": "normalize",
        "axis": alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1]),
    }
    bars = base.mark_bar(aria=False, stroke="white").encode(
        x=alt.X("tests:Q", **share),
        color=alt.Color(
            "verdict:N",
            title="The claim is",
            scale=alt.Scale(domain=list(words.VERDICTS), range=list(words.VERDICTS.values())),
        ),
        tooltip=[
            alt.Tooltip("claim:N", title="Claim"),
            alt.Tooltip("way:N", title="Tested"),
            alt.Tooltip("verdict:N", title="Verdict"),
            alt.Tooltip("tests:Q", title="Tests"),
        ],
    )
    dark = alt.FieldOneOfPredicate("verdict", ["supported", "contradicted"])
    counts = base.mark_text(fontSize=12, aria=False).encode(
        x=alt.X("tests:Q", bandPosition=0.5, **share),
        text="label:N",
        detail="verdict:N",
        color=alt.when(dark).then(alt.value("white")).otherwise(alt.value(theme.INK)),
    )
    return (
        alt.layer(bars, counts)
        .facet(
            row=alt.Row(
                "claim:N",
                title=None,
                sort=list(words.PARTS.values()),
                header=alt.Header(
                    labelAngle=0,
                    labelAlign="left",
                    labelAnchor="start",
                    labelOrient="top",
                    labelPadding=2,
                ),
            ),
            spacing=14,
            data=data,
        )
        .resolve_scale(y="independent")
    )
