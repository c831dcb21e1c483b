"""Draw one figure: Vega-Lite with provenance, pictures, and the numbers as CSV."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import altair as alt
import polars as pl
import vl_convert

from layergrad.config import ModelSpec, Study
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import atomic, read_provenance, versions, write_json, write_text
from layergrad.report.figures import curves, length, mad, rd, samples, theme, words
from layergrad.report.names import Figure, find_figure
from layergrad.tables import CURVES, LENGTHS, MAD, RD, SAMPLES, Table, read_table

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
PNG_SCALE = 2
# Family of one model and dataset -> the table that it shows, and its module.
PAIR_MODULES = {
    "curves": (CURVES, curves),
    "mad": (MAD, mad),
    "rd": (RD, rd),
    "length": (LENGTHS, length),
}


def draw(
    plan: Plan, name: str, output_dir: Path, statistics: Path = Path("data/statistics")
) -> None:
    """Write a figure's files: ``NAME.json``, ``.svg``, ``.png``, and ``../tables/NAME.csv``.

    Parameters
    ----------
    plan
        The study.
    name
        Name of the figure, one of ``plan.figures``.
    output_dir
        Folder of the figures.
    statistics
        Folder of the tables over all pairs.

    Raises
    ------
    UserError
        If there is no such figure, or a table is missing or of another study.
    """
    figure = find_figure(plan.study, name)
    rows, chart = picture(plan, figure, statistics)
    spec = chart.to_dict()
    spec["config"] = theme.CONFIG
    spec["usermeta"] = provenance = figure_provenance(plan, figure)
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    write_text(with_metadata(svg, spec, provenance), output_dir / f"{name}.svg")
    with atomic(output_dir / f"{name}.png") as aside:
        aside.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=PNG_SCALE))
    write_text(rows.write_csv(), output_dir.parent / "tables" / f"{name}.csv")
    # last: it records the key, by which the other files are taken to be complete
    write_json(spec, output_dir / f"{name}.json")


def picture(plan: Plan, figure: Figure, statistics: Path) -> tuple[pl.DataFrame, alt.TopLevelMixin]:
    """Return the rows that a figure shows, and the chart with its title."""
    study = plan.study
    if figure.family == "samples":
        table = study_table(plan, SAMPLES, statistics)
        rows = samples.rows(table, labels(study))
        total, lost = table["samples"].sum(), table["failed"].sum()
        subtitle = [f"{total} samples measured, {lost} fell out"]
        return rows, titled(samples.chart(rows, len(study.models)), "Samples", subtitle)
    (model, dataset), *_ = figure.pairs
    metric, control = shown_metric(study), shown_control(study, figure.family, dataset)
    frame = study_table(plan, PAIR_MODULES[figure.family][0], statistics)
    rows = pair_rows(frame, figure.family, model, dataset)
    rows = rows.filter(metric=metric, control=control)
    if figure.family == "length":
        rows = length.thinned(rows)
    title = words.FAMILIES[figure.family].format(metric=words.metric_title(metric))
    subtitle = subtitle_of(study, model, dataset, control)
    if rows.is_empty():
        return rows, titled(empty_chart(), title, subtitle)
    chart = PAIR_MODULES[figure.family][1].chart(
        rows, responses(study, dataset), words.metric_title(metric)
    )
    return rows, titled(chart, title, subtitle)


def empty_chart() -> alt.Chart:
    """Return what stands for a figure of which no sample was measured."""
    said = alt.Chart(alt.InlineData([{}])).mark_text(fontSize=14, align="left")
    return said.encode(text=alt.value("No sample was measured.")).properties(width=400, height=60)


def pair_rows(frame: pl.DataFrame, family: str, model: str, dataset: str) -> pl.DataFrame:
    """Return what a family shows of one model and dataset, all metrics and controls."""
    return PAIR_MODULES[family][1].rows(frame.filter(model=model, dataset=dataset))


def study_table(plan: Plan, table: Table, statistics: Path) -> pl.DataFrame:
    """Read a table over all pairs; refuse one of another study."""
    path = statistics / f"{table.name}.parquet"
    frame = read_table(path, table)
    recorded = (read_provenance(path) or {}).get("key")
    if recorded != plan.tables_key:
        raise UserError(
            f"{path}: holds tables of key {recorded}, the study asks for {plan.tables_key}; "
            "run `layergrad collect`, or the workflow again"
        )
    return frame


def shown_metric(study: Study) -> str:
    """Return the metric that figures open with."""
    metric, known = study.report.metric, study.statistics.metrics
    if metric not in known:
        raise UserError(
            f"report.metric: {metric!r} is not among statistics.metrics ({', '.join(known)})"
        )
    return metric


def shown_control(study: Study, family: str, dataset: str) -> str:
    """Return the control that a figure opens with: for RD the first wrong one."""
    controls = study.controls_of(study.dataset(dataset))
    if family == "rd":
        return next(control for control in controls if control != "correct")
    return "correct" if "correct" in controls else controls[0]


def responses(study: Study, dataset: str) -> list[str]:
    """Return the titles of a dataset's responses, fast to slow."""
    return [words.response_title(response) for response in study.dataset(dataset).responses]


def labels(study: Study) -> dict[str, str]:
    """Return the names for people of models and datasets."""
    return {spec.name: spec.label for spec in (*study.models, *study.datasets)}


def subtitle_of(study: Study, model: str, dataset: str, control: str) -> list[str]:
    """Return the lines under a title: what is shown, and the model's note."""
    spec = study.model(model)
    compared = f"{control} against correct" if control != "correct" else "correct"
    shown = f"{spec.label} on {study.dataset(dataset).label}, {compared} responses"
    return [shown, *note_lines(spec)]


def note_lines(model: ModelSpec) -> list[str]:
    """Return a model's note, wrapped."""
    return textwrap.wrap(model.note, 110)


def titled(chart: Any, title: str, subtitle: list[str]) -> Any:
    """Return the chart with a title and a description for those who cannot see it."""
    return chart.properties(
        title=alt.TitleParams(title, subtitle=subtitle),
        description=f"{title}. {' '.join(subtitle)}.",
    )


def figure_provenance(plan: Plan, figure: Figure) -> dict[str, Any]:
    """Return what a figure was made from."""
    return {
        "key": plan.figure_key(figure.name),
        "figure": figure.name,
        "pairs": [
            {
                "model": model,
                "dataset": dataset,
                "spectra": plan.spectra_key(model, dataset),
                "statistics": plan.statistics_key(model, dataset),
            }
            for model, dataset in figure.pairs
        ],
        "settings": plan.study.statistics.model_dump(mode="json"),
        "versions": versions("layergrad", "altair", "polars", "vl-convert-python"),
    }


def with_metadata(svg: str, spec: dict[str, Any], provenance: dict[str, Any]) -> str:
    """Return an SVG with title, description and provenance, which its writer leaves out."""
    start = svg.index(">", svg.index("<svg")) + 1
    described = (
        f"<title>{escape(spec['title']['text'])}</title><desc>{escape(spec['description'])}</desc>"
        f"<metadata>{escape(json.dumps(provenance, sort_keys=True))}</metadata>"
    )
    return svg[:start] + described + svg[start:]
