"""MAD: how much a curve changes from layer to layer, by projection, response and band of depth."""

from __future__ import annotations

import altair as alt
import polars as pl

from layergrad.report.figures import theme, words


def rows(mad: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure shows of the table ``mad`` of one model and dataset."""
    return mad.select(
        "metric",
        "control",
        pl.col("response").map_elements(words.response_title, return_dtype=pl.String),
        "projection",
        pl.col("band").map_elements(words.band_title, return_dtype=pl.String),
        "value",
        "low",
        "high",
        "samples",
    )


def chart(
    data: pl.DataFrame | alt.NamedData, responses: list[str], metric: str, *, log: bool = True
) -> alt.FacetChart:
    """Draw the MAD of each projection and response with its interval, one panel a band.

    Parameters
    ----------
    data
        Rows of one metric and control, as :func:`rows` gives them.
    responses
        Titles of the responses, fast to slow.
    metric
        Title of the metric.
    log
        Logarithmic horizontal axis.
    """
    title = f"MAD of the {words.within_sentence(metric)}"
    scale = theme.scale(log, zero=True)
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    marks = theme.by_response(responses)
    base = alt.Chart().encode(
        y=alt.Y(
            "projection:N",
            title="Projection",
            sort=list(words.PROJECTIONS),
            scale=alt.Scale(padding=0.25),
        ),
        yOffset=alt.YOffset("response:N", sort=responses),
        color=marks["color"],
        opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12)),
    )
    interval = base.mark_rule(strokeWidth=2, aria=False).encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=theme.value_axis()), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=75, opacity=1, aria=False).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=theme.value_axis()),
        shape=marks["shape"],
        tooltip=[
            alt.Tooltip("response:N", title="Response"),
            alt.Tooltip("projection:N", title="Projection"),
            alt.Tooltip("band:N", title="Layers"),
            alt.Tooltip("value:Q", title=title, format=".4~g"),
            alt.Tooltip("low:Q", title="Interval from", format=".4~g"),
            alt.Tooltip("high:Q", title="Interval to", format=".4~g"),
            alt.Tooltip("samples:Q", title="Samples"),
        ],
    )
    layers = alt.layer(interval, points, width=190, height=alt.Step(16)).add_params(chosen)
    figure = layers.facet(
        facet=alt.Facet("band:N", title=None, sort=list(words.BANDS.values())), columns=4, data=data
    )
    return figure.transform_filter("datum.low === null || datum.low > 0") if log else figure
