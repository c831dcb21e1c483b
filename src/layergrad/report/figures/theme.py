"""The one look of all figures.

Colours are told apart under every common kind of colour blindness and reach 3:1 against white;
dashes and shapes say the same again, for print and for those who see no colours.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from layergrad.report.figures import words

INK = "#1f2328"
QUIET = "#57606a"
GRID = "#e4e7eb"
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"

# By the place of a response among those of its dataset, fast to slow.
COLOURS = ("#c1440e", "#0067a5", "#00805e", "#8a3a8f", "#6b5300", "#333333")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [1, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")

# An unseen rim by which small points are easier to hover. (`nearest` would do better, but leaves
# texts of its tooltips undefined. Clipped, or the rim would push panels apart.)
REACH = {"stroke": "transparent", "strokeWidth": 12, "clip": True}

CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": "#c9ced4"},
    "title": {
        "anchor": "start",
        "fontSize": 16,
        "fontWeight": 600,
        "color": INK,
        "subtitleFontSize": 12.5,
        "subtitleColor": QUIET,
        "subtitlePadding": 4,
        "offset": 14,
    },
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": 500,
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": GRID,
        "domainColor": QUIET,
        "tickColor": QUIET,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
        "labelFlush": False,
    },
    "header": {"labelFontSize": 13, "labelFontWeight": 600, "labelColor": INK, "titleColor": INK},
    "legend": {
        "orient": "top",
        "titleFontSize": 13,
        "titleFontWeight": 500,
        "labelFontSize": 13,
        "labelColor": INK,
        "titleColor": INK,
        "symbolSize": 110,
        "symbolStrokeWidth": 2,
        "labelLimit": 260,
        "columnPadding": 18,
    },
    "line": {"strokeWidth": 2},
    "rule": {"color": QUIET},
    "range": {"category": list(COLOURS)},
}


def by_response(responses: list[str]) -> dict[str, Any]:
    """Return the encodings that tell responses apart: colour, and shape as well.

    Parameters
    ----------
    responses
        Titles of the responses in the figure, fast to slow.
    """
    shown = {"title": "Response", "legend": alt.Legend(symbolOpacity=1)}
    return {
        "color": alt.Color("response:N", scale=named(COLOURS, responses), **shown),
        "shape": alt.Shape("response:N", scale=named(SHAPES, responses), **shown),
    }


def dashes(names: list[str], field: str = "response") -> alt.StrokeDash:
    """Return the dashes that tell the lines of some names apart, without a legend.

    A legend of colours with the same domain would draw them around its marks: hence backwards.
    """
    scale = named(DASHES, names)
    backwards = alt.Scale(domain=scale.domain[::-1], range=scale.range[::-1])
    return alt.StrokeDash(f"{field}:N", scale=backwards, legend=None)


def hovered(field: str) -> alt.Parameter:
    """Return the selection of all marks that share a value with the one under the pointer."""
    return alt.selection_point(
        name="hovered", fields=[field], on="pointerover", empty=False, clear="pointerout"
    )


# Place of a tick's first digit in [1, 2, 5], -1 if it is another; 1.0001 is for rounding errors.
ROUND = (
    "indexof([1, 2, 5], "
    "round(abs(datum.value) / pow(10, floor(log(1.0001 * abs(datum.value)) / LN10))))"
)


def value_axis(log: bool = False) -> alt.Axis:
    """Return the axis of a metric: plain numbers where people would write them, else powers.

    On a logarithmic one only 1, 2 and 5 of each power of ten are told.
    """
    plain, power = "format(datum.value, ',.6~f')", "format(datum.value, '.2~e')"
    size = "abs(datum.value)"
    far = f"{size} > 0 && ({size} < 1e-4 || {size} >= 1e6)"
    told = f"{far} ? {power} : {plain}"
    return alt.Axis(labelExpr=f"{ROUND} < 0 ? '' : {told}" if log else told, tickCount=6)


def count_axis(log: bool = False) -> alt.Axis:
    """Return the axis of something counted: whole numbers alone are told, as :func:`value_axis`."""
    unwanted = f"datum.value % 1 || {ROUND} < 0" if log else "datum.value % 1"
    return alt.Axis(labelExpr=f"{unwanted} ? '' : format(datum.value, ',d')", tickCount=6)


def scale(log: bool, zero: bool = False) -> alt.Scale:
    """Return a logarithmic or a linear scale for a metric."""
    return alt.Scale(type="log", nice=False, padding=6) if log else alt.Scale(zero=zero)


def layer_axis(relative: bool) -> alt.X:
    """Return the horizontal axis of curves: the layer's number, or its depth from 0 to 1."""
    if relative:
        return alt.X(
            "depth:Q", title="Relative depth", scale=alt.Scale(nice=False, zero=True, padding=6)
        )
    return alt.X(
        "layer:Q",
        title="Layer",
        scale=alt.Scale(nice=False, padding=6),
        axis=alt.Axis(tickMinStep=1, format="d", tickCount=6),
    )


def projection_panels() -> alt.Facet:
    """Return one panel a projection, in the usual order."""
    return alt.Facet(
        "projection:N",
        title=None,
        sort=list(words.PROJECTIONS),
        header=alt.Header(labelExpr="datum.value + ' projection'"),
    )


def named(values: tuple[Any, ...], names: list[str]) -> alt.Scale:
    """Return a scale from names to colours, dashes or shapes; they repeat if there are more."""
    return alt.Scale(domain=names, range=[values[i % len(values)] for i in range(len(names))])
