"""The results of a study on a terminal: means by model and dataset, and the claims."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from layergrad.figures import has_family
from layergrad.plan import Plan
from layergrad.report.captions import number, percent
from layergrad.report.draw import labels, shown_control, shown_metric, study_table
from layergrad.report.figures import words
from layergrad.report.page.sections import (
    main_variant,
    ordered_parts,
    overall,
    refused,
    sign,
    stands,
    told,
)
from layergrad.tables import CURVES, FINDINGS, MAD, RD, SAMPLES

MOST_ROWS = 24
CELL = ["model", "dataset", "response"]


def overview(plan: Plan, console: Console, statistics: Path = Path("data/statistics")) -> None:
    """Print what a study found.

    Parameters
    ----------
    plan
        The study.
    console
        Where to print; it knows about width, colours and ``NO_COLOR``.
    statistics
        Folder of the tables over all pairs.
    """
    samples = study_table(plan, SAMPLES, statistics)
    metric = words.metric_title(shown_metric(plan.study))
    console.print(means_table(plan, statistics, metric))
    findings = study_table(plan, FINDINGS, statistics)
    if findings.height:
        console.print(claims_table(findings))
    say_what_failed(plan, samples, console)
    for model in plan.study.models:
        if model.note:
            console.print(f"{model.label}: {model.note}", markup=False)


def say_what_failed(plan: Plan, samples: pl.DataFrame, console: Console) -> None:
    """Print how many samples failed and why, and which models failed their preflight."""
    measured, lost = samples["samples"].sum(), samples["failed"].sum()
    reasons: Counter[str] = Counter()
    for told_reasons in samples["reasons"]:
        for reason in filter(None, told_reasons.split("; ")):
            name, _, count = reason.rpartition(": ")
            reasons[name] += int(count)
    why = ", ".join(f"{count} {name}" for name, count in reasons.most_common())
    console.print(f"{measured} samples measured, {lost} failed{f' ({why})' if why else ''}.")
    wrong = refused(plan)
    for model, detail in wrong.items():
        text = f"{model} FAILED its preflight and was not measured: {detail}"
        console.print(text, style="red", markup=False)
    if lost and not measured:
        console.print("NOTHING WAS MEASURED: every sample failed.", style="bold red")


def means_table(plan: Plan, statistics: Path, metric: str) -> Table:
    """Return the table of means over layers and projections, one row a model and response."""
    means = cell_means(plan, statistics)
    table = Table(title=f"{metric}, mean over layers and projections", title_justify="left")
    for name in ("Model", "Dataset", "Response"):
        table.add_column(name)
    for name in ("Mean", "MAD", "Wrong against correct"):
        table.add_column(name, justify="right")
    named = labels(plan.study)
    for row in means.head(MOST_ROWS).iter_rows(named=True):
        response = words.response_title(row["response"])
        numbers = (number(row["mean"]), number(row["mad"]), percent(row["rd"]))
        table.add_row(named[row["model"]], named[row["dataset"]], response, *numbers)
    if means.height > MOST_ROWS:
        table.caption = f"and {means.height - MOST_ROWS} rows more, all in the report"
    return table


def cell_means(plan: Plan, statistics: Path) -> pl.DataFrame:
    """Return mean, MAD and RD of the correct responses, in the order of the study."""
    chosen = pl.col("metric") == shown_metric(plan.study)
    parts = {
        "mean": study_table(plan, CURVES, statistics).filter(chosen, control="correct"),
        "mad": study_table(plan, MAD, statistics).filter(chosen, control="correct", band="all"),
        "rd": study_table(plan, RD, statistics).filter(chosen, is_first_wrong(plan)),
    }
    values = {"mean": "mean", "mad": "value", "rd": "signed"}
    order = [
        (cell.model, cell.dataset, cell.response)
        for cell in plan.all_cells
        if cell.control == "correct"
    ]
    found = pl.DataFrame(order, schema=dict.fromkeys(CELL, pl.String), orient="row")
    for name, part in parts.items():
        means = part.group_by(CELL).agg(pl.col(values[name]).mean().alias(name))
        found = found.join(means, on=CELL, how="left", maintain_order="left")
    return found


def is_first_wrong(plan: Plan) -> pl.Expr:
    """Return whether a row is of the wrong control that figures of its dataset open with."""
    shown = {
        spec.name: shown_control(plan.study, "rd", spec.name)
        for spec in plan.study.datasets
        if has_family(plan.study, spec, "rd")
    }
    wrong = pl.col("dataset").replace_strict(shown, default=None, return_dtype=pl.String)
    return pl.col("control") == wrong


def claims_table(findings: pl.DataFrame) -> Table:
    """Return the table of claims, each with its verdict and the count of its tests."""
    table = Table(title="Claims", title_justify="left")
    table.add_column("Claim")
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Tests")
    styles = {"supported": "green", "contradicted": "red", "mixed": "yellow"}
    for number_, part in ordered_parts(findings):
        tests = findings.filter(claim=number_, part=part)
        verdicts = tests.filter(variant=main_variant(tests))["verdict"].to_list()
        verdict = overall(verdicts)
        style = styles.get(verdict.removeprefix("mostly "))
        shown = f"{sign(verdict)} {verdict}"
        shown = f"[{style}]{shown}[/]" if style else shown
        if told_apart := stands(tests):
            shown += f" as measured,\n{told_apart}"
        table.add_row(f"{number_}. {tests['statement'][0]}", shown, told(verdicts))
    return table
