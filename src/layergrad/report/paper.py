"""The original study's figures (SVG, PDF) and tables (LaTeX, CSV), for a paper."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl
import vl_convert

from layergrad.figures import Figure, find_paper_figure
from layergrad.plan import Plan
from layergrad.provenance import atomic, checksums, write_json, write_text
from layergrad.report.draw import (
    VEGA_LITE,
    as_svg,
    figure_provenance,
    finished,
    responses,
    shown_control,
    shown_metric,
    study_table,
    subtitle_of,
    titled,
    with_metadata,
)
from layergrad.report.families import whole
from layergrad.report.figures import curves, paper, rd, words
from layergrad.tables import CURVES, MAD, RD

TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def write_paper(
    plan: Plan, name: str, output_dir: Path, statistics: Path = Path("data/statistics")
) -> None:
    """Write a figure or table of the paper, and beside it ``NAME.json`` with its provenance.

    Parameters
    ----------
    plan
        The study.
    name
        One of ``plan.paper``: ``curves.MODEL.DATASET``, ``rd.MODEL.DATASET`` or ``mad.MODEL``.
    output_dir
        Folder to write to.
    statistics
        Folder of the tables over all pairs.

    Raises
    ------
    UserError
        If there is no such figure, or a table is missing or of another study.
    """
    figure = find_paper_figure(plan.study, name)
    provenance = figure_provenance(plan, figure, plan.paper_key(name))
    kinds = ("tex", "csv") if figure.family == "mad" else ("svg", "pdf")
    if figure.family == "mad":
        table = mad_table(plan, figure, statistics)
        write_text(table.write_csv(), output_dir / f"{name}.csv")
        write_text(as_latex(plan, figure, table), output_dir / f"{name}.tex")
    else:
        spec = finished(picture(plan, figure, statistics))
        write_text(with_metadata(as_svg(spec), spec, provenance), output_dir / f"{name}.svg")
        with atomic(output_dir / f"{name}.pdf") as aside:
            aside.write_bytes(vl_convert.vegalite_to_pdf(spec, vl_version=VEGA_LITE))
    files = [output_dir / f"{name}.{kind}" for kind in kinds]
    write_json({**provenance, "files": checksums(files, output_dir)}, output_dir / f"{name}.json")


def picture(plan: Plan, figure: Figure, statistics: Path) -> alt.FacetChart:
    """Return the chart of curves or RD of one model and dataset."""
    study, ((model, dataset),) = plan.study, figure.pairs
    metric, control = shown_metric(study), shown_control(study, figure.family, dataset)
    title, labels = words.metric_title(metric), responses(study, dataset)
    table, module = (CURVES, curves) if figure.family == "curves" else (RD, rd)
    frame = study_table(plan, table, statistics).filter(model=model, dataset=dataset, metric=metric)
    rows = module.rows(whole(frame))
    if figure.family == "curves":
        chart = paper.chart(rows, labels, title)
        which = " and ".join(words.in_order(rows["control"], ["correct"]))
    else:
        chart = rd.chart(rows.filter(control=control), labels, title)
        which = f"{control} against correct"
    subtitle = subtitle_of(study, [model], study.dataset(dataset).label, which)
    return titled(chart, words.FAMILIES[figure.family].format(metric=title), subtitle)


def mad_table(plan: Plan, figure: Figure, statistics: Path) -> pl.DataFrame:
    """Return MAD over all layers: a row a dataset and projection, a column a response and control.

    Columns are ``dataset``, ``projection``, then ``RESPONSE CONTROL`` in the order of the study.
    """
    (model, _), *_ = figure.pairs
    chosen = {"model": model, "metric": shown_metric(plan.study), "band": "all"}
    frame = study_table(plan, MAD, statistics).filter(**chosen)
    found = {
        (row["dataset"], row["projection"], f"{row['response']} {row['control']}"): row["value"]
        for row in frame.iter_rows(named=True)
    }
    columns = list(
        dict.fromkeys(
            f"{response} {control}"
            for spec in plan.study.datasets
            for response, control in plan.study.variants_of(spec)
        )
    )
    projections = words.in_order(frame["projection"], words.PROJECTIONS)
    return pl.DataFrame(
        [
            {"dataset": spec.name, "projection": projection}
            | {column: found.get((spec.name, projection, column)) for column in columns}
            for spec in plan.study.datasets
            for projection in projections
        ],
        schema={
            "dataset": pl.String,
            "projection": pl.String,
            **dict.fromkeys(columns, pl.Float64),
        },
    )


def as_latex(plan: Plan, figure: Figure, table: pl.DataFrame) -> str:
    """Return the table in LaTeX (package booktabs), numbers to three significant digits.

    Datasets with the same responses share one block of columns.
    """
    (model, _), *_ = figure.pairs
    spec, metric = plan.study.model(model), words.metric_title(shown_metric(plan.study))
    caption = f"MAD of the {words.within_sentence(metric)} over all layers, {spec.label}."
    blocks: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for dataset in plan.study.datasets:
        blocks.setdefault(tuple(plan.study.variants_of(dataset)), []).append(dataset.name)
    lines = [
        f"% layergrad, key {plan.paper_key(figure.name)}; needs \\usepackage{{booktabs}}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(' '.join([caption, spec.note]).strip())}}}",
        rf"\label{{tab:{figure.name}}}",
    ]
    for place, (variants, datasets) in enumerate(blocks.items()):
        lines += [r"\par\medskip"] if place else []
        lines += tabular(plan, table, list(variants), datasets)
    return "\n".join([*lines, r"\end{table}", ""])


def tabular(
    plan: Plan, table: pl.DataFrame, variants: list[tuple[str, str]], datasets: list[str]
) -> list[str]:
    """Return the lines of one tabular: a row a dataset and projection."""
    responses = list(dict.fromkeys(response for response, _ in variants))
    counts = [sum(response == r for r, _ in variants) for response in responses]
    heads = [
        rf"\multicolumn{{{count}}}{{c}}{{{tex(words.response_title(response))}}}"
        for response, count in zip(responses, counts, strict=True)
    ]
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * len(variants)}}}",
        r"\toprule",
        " & ".join(["", "", *heads]) + r" \\",
        " & ".join(["Dataset", "", *(tex(control) for _, control in variants)]) + r" \\",
    ]
    for dataset in datasets:
        lines.append(r"\midrule")
        label = tex(plan.study.dataset(dataset).label)
        for row in table.filter(dataset=dataset).iter_rows(named=True):
            cells = [digits(row[f"{response} {control}"]) for response, control in variants]
            lines.append(" & ".join([label, row["projection"], *cells]) + r" \\")
            label = ""
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def digits(value: float | None) -> str:
    """Return a number to three significant digits, all of them shown."""
    return "--" if value is None else f"{value:#.3g}".rstrip(".")


def tex(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return "".join(TEX.get(character, character) for character in text)
