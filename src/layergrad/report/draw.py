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

from layergrad.config import ModelSpec, Study, metric_label
from layergrad.errors import UserError
from layergrad.figures import Figure, find_figure
from layergrad.plan import Plan
from layergrad.provenance import (
    atomic,
    checksums,
    read_provenance,
    versions,
    write_json,
    write_text,
)
from layergrad.report.families import FAMILIES, knowledge_rows, pair_rows, tuning_rows
from layergrad.report.figures import findings, length, samples, theme, words
from layergrad.tables import FINDINGS, SAMPLES, Table, read_table

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
PNG_SCALE = 2


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
    spec = finished(chart)
    spec["usermeta"] = provenance = figure_provenance(plan, figure, plan.figure_key(name))
    svg = as_svg(spec)
    write_text(with_metadata(svg, spec, provenance), output_dir / f"{name}.svg")
    with atomic(output_dir / f"{name}.png") as aside:
        aside.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=PNG_SCALE))
    numbers = output_dir.parent / "tables" / f"{name}.csv"
    write_text(rows.write_csv(), numbers)
    # last: it records the key, by which the other files are taken to be complete
    files = [*(output_dir / f"{name}{kind}" for kind in (".svg", ".png")), numbers]
    spec["usermeta"] = {**provenance, "files": checksums(files, output_dir)}
    write_json(spec, output_dir / f"{name}.json")


# ------------------------------------------------------------------------------------- pictures


def picture(plan: Plan, figure: Figure, statistics: Path) -> tuple[pl.DataFrame, Any]:
    """Return the rows that a figure shows, and the chart with its title."""
    if figure.family == "samples":
        return samples_picture(plan.study, study_table(plan, SAMPLES, statistics))
    if figure.family == "findings":
        return findings_picture(study_table(plan, FINDINGS, statistics))
    family = FAMILIES[figure.family]
    frame = study_table(plan, family.table, statistics)
    study, (model, dataset) = plan.study, figure.pairs[0]
    metric, control = shown_metric(study), shown_control(study, figure.family, dataset)
    if figure.family == "knowledge":
        rows = knowledge_rows(frame, study, model)
        subtitle = subtitle_of(study, [model], "all datasets", "correct")
    elif figure.family == "tuning":
        members = [model for model, _ in figure.pairs]
        rows = tuning_rows(frame, study, study.model(model).family, dataset)
        subtitle = subtitle_of(study, members, study.dataset(dataset).label, control)
    else:
        rows = pair_rows(frame, figure.family, model, dataset)
        compared = figure.family in {"rd", "auc"}
        which = f"{control} against correct" if compared else control
        subtitle = subtitle_of(study, [model], study.dataset(dataset).label, which)
    rows = chosen(rows, metric=metric, control=control)
    if figure.family == "spectra":
        rows = rows.filter(band=words.band_title("all"))
    if figure.family == "length":
        rows = length.thinned(rows)
    title = words.FAMILIES[figure.family].format(metric=words.metric_title(metric))
    if rows.is_empty():
        return rows, titled(empty_chart(), title, subtitle)
    chart = family.chart(rows, responses(study, dataset), words.metric_title(metric))
    return rows, titled(chart, title, subtitle)


def samples_picture(study: Study, table: pl.DataFrame) -> tuple[pl.DataFrame, Any]:
    """Return counts and picture of the samples of all cells."""
    rows = samples.rows(table, labels(study))
    subtitle = [f"{table['samples'].sum()} samples measured, {table['failed'].sum()} failed"]
    chart = samples.chart(rows, [spec.label for spec in study.datasets])
    return rows, titled(chart, words.FAMILIES["samples"], subtitle)


def findings_picture(table: pl.DataFrame) -> tuple[pl.DataFrame, Any]:
    """Return counts and picture of the verdicts of all tests."""
    rows = findings.rows(table)
    testable = table.filter(pl.col("verdict") != "not testable").height
    subtitle = [f"{table.height} tests over models, datasets and projections, {testable} possible"]
    if rows.is_empty():
        return rows, titled(empty_chart(), words.FAMILIES["findings"], subtitle)
    return rows, titled(findings.chart(rows), words.FAMILIES["findings"], subtitle)


def empty_chart() -> alt.Chart:
    """Return what stands for a figure of which no sample was measured."""
    said = alt.Chart(alt.InlineData([{}])).mark_text(fontSize=14, align="left")
    return said.encode(text=alt.value("No sample was measured.")).properties(width=400, height=60)


def chosen(rows: pl.DataFrame, **choice: str) -> pl.DataFrame:
    """Return the rows of a choice; what the rows do not tell apart is no part of it."""
    return rows.filter(**{name: value for name, value in choice.items() if name in rows.columns})


def titled(chart: Any, title: str, subtitle: list[str]) -> Any:
    """Return the chart with a title and a description for those who cannot see it."""
    return chart.properties(
        title=alt.TitleParams(title, subtitle=subtitle),
        description=f"{title}. {' '.join(subtitle)}.",
    )


def finished(chart: Any) -> dict[str, Any]:
    """Return a chart as Vega-Lite in the look of all figures."""
    return {**chart.to_dict(), "config": theme.CONFIG}


def as_svg(spec: dict[str, Any]) -> str:
    """Return a picture of a Vega-Lite specification."""
    return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


# --------------------------------------------------------------------------------- what is shown


def study_table(plan: Plan, table: Table, statistics: Path) -> pl.DataFrame:
    """Read a table over all pairs; refuse one of another study."""
    path = statistics / f"{table.name}.parquet"
    if not path.exists():
        raise UserError(f"{path}: is not there yet; run `snakemake` first")
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
    return metric_label(metric)


def shown_control(study: Study, family: str, dataset: str) -> str:
    """Return the control that a figure opens with: for RD and AUC the first wrong one."""
    controls = study.controls_of(study.dataset(dataset))
    if family in {"rd", "auc"}:
        return next(control for control in controls if control != "correct")
    return "correct" if "correct" in controls else controls[0]


def responses(study: Study, dataset: str) -> list[str]:
    """Return the titles of a dataset's responses, fast to slow."""
    return [words.response_title(response) for response in study.dataset(dataset).responses]


def labels(study: Study) -> dict[str, str]:
    """Return the names for people of models and datasets."""
    return {spec.name: spec.label for spec in (*study.models, *study.datasets)}


def subtitle_of(study: Study, models: list[str], dataset: str, which: str) -> list[str]:
    """Return the lines under a title: which responses are shown, and the models' notes."""
    specs = [study.model(model) for model in models]
    shown = f"{' and '.join(m.label for m in specs)} on {dataset}, {which} responses"
    return [shown, *(line for spec in specs for line in note_lines(spec))]


def note_lines(model: ModelSpec) -> list[str]:
    """Return a model's note, wrapped."""
    return textwrap.wrap(model.note, 110)


# ------------------------------------------------------------------------------------ provenance


def figure_provenance(plan: Plan, figure: Figure, key: str) -> dict[str, Any]:
    """Return what a figure was made from."""
    return {
        "key": key,
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
