"""What families of figures share: lines with bands, and dots with intervals, by response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from layergrad.report.figures import theme

Data = pl.DataFrame | alt.NamedData
PER_RESPONSE = {"response:N": "Response", "projection:N": "Projection"}


def told(names: dict[str, str], value: str, title: str, number: str) -> list[alt.Tooltip]:
    """Return a tooltip: what the mark stands for, its value with its interval, and n.

    Parameters
    ----------
    names
        Field with its type -> its title.
    value, title
        Field of the value and its title.
    number
        Format of the value and its interval.
    """
    interval = {value: title, "low": "Interval from", "high": "Interval to"}
    return [
        *(alt.Tooltip(field, title=shown) for field, shown in names.items()),
        *(alt.Tooltip(f"{f}:Q", title=shown, format=number) for f, shown in interval.items()),
        alt.Tooltip("samples:Q", title="Samples"),
    ]


def lines(
    data: Data,
    responses: list[str],
    x: alt.X,
    value: str,
    y: dict[str, Any],
    tooltip: list[alt.Tooltip],
    *,
    hover: str = "layer",
    dash: alt.StrokeDash | None = None,
    detail: str | None = None,
    under: Sequence[alt.Chart] = (),
) -> alt.FacetChart:
    """Draw one line a response with the band of its interval, one panel a projection.

    Parameters
    ----------
    data
        Rows with ``response``, ``projection``, `value`, ``low`` and ``high``.
    responses
        Titles of the responses, fast to slow. One is chosen by the legend.
    x
        Horizontal axis.
    value
        Field of the line.
    y
        Title, scale and axis of the vertical one.
    tooltip
        What a point tells.
    hover
        Field whose value all points under the pointer share.
    dash
        What dashes tell; the response, if None.
    detail
        Field that makes more lines of a response.
    under
        Layers drawn first.
    """
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    hovered = theme.hovered(hover)
    marks = theme.by_response(responses)
    faint = alt.when(chosen)
    base = alt.Chart().encode(x=x, **({"detail": detail} if detail else {}))
    band = base.mark_area(aria=False).encode(
        y=alt.Y("low:Q", **y),
        y2="high:Q",
        color=marks["color"],
        opacity=faint.then(alt.value(0.18)).otherwise(alt.value(0.03)),
    )
    line = base.mark_line(aria=False).encode(
        y=alt.Y(f"{value}:Q", **y),
        color=marks["color"],
        strokeDash=dash or theme.dashes(responses),
        opacity=faint.then(alt.value(1)).otherwise(alt.value(0.15)),
    )
    points = (
        base.mark_point(filled=True, aria=False, **theme.REACH)
        .encode(
            y=alt.Y(f"{value}:Q", **y),
            color=marks["color"],
            shape=marks["shape"],
            opacity=faint.then(alt.value(1)).otherwise(alt.value(0.1)),
            size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(22)),
            tooltip=tooltip,
        )
        .add_params(hovered)
    )
    rule = base.mark_rule(strokeDash=[3, 3], aria=False).transform_filter(hovered)
    layers = alt.layer(*under, rule, band, line, points, width=190, height=200).add_params(chosen)
    return layers.facet(facet=theme.projection_panels(), columns=4, data=data)


def dots(
    data: Data,
    responses: list[str],
    y: alt.Y,
    value: str,
    x: dict[str, Any],
    tooltip: list[alt.Tooltip],
    facet: alt.Facet,
    *,
    under: Sequence[alt.Chart] = (),
    **layout: Any,
) -> alt.FacetChart:
    """Draw one dot a response with its interval, side by side at each place of `y`.

    Parameters
    ----------
    data
        Rows with ``response``, `value`, ``low`` and ``high``.
    responses
        Titles of the responses, fast to slow. One is chosen by the legend.
    y
        Vertical axis.
    value
        Field of the dot.
    x
        Title, scale and axis of the horizontal one.
    tooltip
        What a dot tells.
    facet
        Panels.
    under
        Layers drawn first.
    layout
        ``columns``, and ``width`` and ``height`` of a panel.
    """
    chosen = alt.selection_point(name="chosen", fields=["response"], bind="legend")
    marks = theme.by_response(responses)
    base = alt.Chart().encode(
        y=y,
        yOffset=alt.YOffset("response:N", sort=responses),
        color=marks["color"],
        opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12)),
    )
    interval = base.mark_rule(strokeWidth=2, aria=False).encode(x=alt.X("low:Q", **x), x2="high:Q")
    points = base.mark_point(filled=True, size=75, opacity=1, aria=False).encode(
        x=alt.X(f"{value}:Q", **x), shape=marks["shape"], tooltip=tooltip
    )
    columns = layout.pop("columns")
    layers = alt.layer(*under, interval, points, **layout).add_params(chosen)
    return layers.facet(facet=facet, columns=columns, data=data)


def positive(figure: alt.FacetChart, log: bool) -> alt.FacetChart:
    """Leave out what a logarithmic axis cannot show: intervals that reach zero."""
    return figure.transform_filter("datum.low === null || datum.low > 0") if log else figure
