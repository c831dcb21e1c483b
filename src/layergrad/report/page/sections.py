"""The parts of the page that are text and tables: what was run, findings, health, provenance."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from layergrad.config import DatasetSpec
from layergrad.datasets.audit import MEASURES, wide
from layergrad.plan import Plan
from layergrad.provenance import read_json, read_provenance, recorded_key, versions
from layergrad.report.captions import Captions
from layergrad.report.draw import as_svg, finished, labels, study_table
from layergrad.report.figures import findings, samples, words
from layergrad.report.page.numbers import claim_metric
from layergrad.results import AUDIT_FILE
from layergrad.tables import AUDIT, DATASET, FAILURES, FINDINGS, SAMPLES, read_table

EXAMPLE_CHARACTERS = 700
MOST_FAILURES = 200
# The variant of a claim that its verdict is read from; the others are controls of it.
MAIN_VARIANTS = ("raw", "classifier")
MOSTLY = 0.8
# Where a claim's evidence is on the page.
EVIDENCE = {1: "curves", 2: "mad", 3: "tuning", 4: "rd", 5: "rd", 6: "knowledge"}


# --------------------------------------------------------------------------------- what was run


def samples_section(plan: Plan, statistics: Path, captions: Captions) -> dict[str, Any]:
    """Return the counts of samples, cell by cell, and their picture."""
    table = study_table(plan, SAMPLES, statistics)
    reasons = Counter()
    for told in table["reasons"]:
        for reason in filter(None, told.split("; ")):
            name, _, count = reason.rpartition(": ")
            reasons[name] += int(count)
    values = {
        "measured": table["samples"].sum(),
        "lost": table["failed"].sum(),
        "cells": table.height,
        "reasons": "; ".join(f"{name}: {count}" for name, count in sorted(reasons.items())),
    }
    names = [spec.label for spec in plan.study.datasets]
    chart = samples.chart(samples.rows(table, labels(plan.study)), names)
    return {
        **values,
        "caption": captions.html("samples", values),
        "svg": as_svg(finished(chart)),
        "cells": in_study_order(plan, table).to_dicts(),
    }


def in_study_order(plan: Plan, table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of cells in the order in which the study names them."""
    cells = ("model", "dataset", "response", "control")
    every = [cell for pair in plan.pairs for cell in plan.measured_cells(*pair)]
    order = pl.DataFrame(every, schema=dict.fromkeys(cells, pl.String), orient="row")
    return order.join(table, on=cells, maintain_order="left")


def example(plan: Plan, spec: DatasetSpec) -> dict[str, Any]:
    """Return one instruction of a dataset with all its responses, if the dataset is here."""
    path = Path(plan.dataset_file(spec.name))
    if not path.exists():
        return {"dataset": spec.label, "instruction": None}
    frame = read_table(path, DATASET)
    rows = frame.filter(pl.col("row") == frame["row"].min())
    place = {response: i for i, response in enumerate(spec.responses)}
    shown = sorted(
        rows.iter_rows(named=True),
        key=lambda row: (place[row["response"]], row["control"] != "correct", row["control"]),
    )
    return {
        "dataset": spec.label,
        "instruction": shorten(rows["instruction"][0]),
        "responses": [
            {
                "response": words.response_title(row["response"]),
                "control": row["control"],
                "text": shorten(row["response_text"]),
            }
            for row in shown
        ],
    }


def shorten(text: str) -> str:
    """Return a text cut to what an example shows."""
    cut = text[:EXAMPLE_CHARACTERS].rstrip()
    return cut if len(text) <= EXAMPLE_CHARACTERS else f"{cut} …"


# ------------------------------------------------------------------------------------- findings


def findings_section(plan: Plan, statistics: Path, captions: Captions) -> dict[str, Any]:
    """Return the claims with their verdicts, and the picture of all tests."""
    table = study_table(plan, FINDINGS, statistics)
    survival = table["survives"].drop_nulls()
    values = {
        "tests": table.height,
        "verdicts": {v: n for v in words.VERDICTS if (n := table.filter(verdict=v).height)},
        "claim_metric": claim_metric(plan),
        "supported_raw": survival.len(),
        "survived": (survival == "yes").sum() if survival.len() else None,
    }
    return {
        "caption": captions.html("findings", values),
        "svg": as_svg(finished(findings.chart(findings.rows(table)))) if table.height else "",
        "claims": [
            claim(plan, table.filter(claim=number, part=part))
            for number, part in ordered_parts(table)
        ],
        "tests": table.height,
    }


def ordered_parts(table: pl.DataFrame) -> list[tuple[int, str]]:
    """Return the parts of the claims in their order."""
    found = {
        f"{number}. {part}": (number, part) for number, part in table.select("claim", "part").rows()
    }
    return [found[name] for name in words.in_order(found, words.PARTS)]


def claim(plan: Plan, tests: pl.DataFrame) -> dict[str, Any]:
    """Return one part of a claim: its statement, its verdict, its tests by model and dataset."""
    variants = words.in_order(tests["variant"], words.VARIANTS)
    main = main_variant(tests)
    named = labels(plan.study)
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for (model, dataset), rows in tests.filter(variant=main).group_by(
        "model", "dataset", maintain_order=True
    ):
        cells.setdefault(model, {})[dataset] = {
            "verdict": overall(rows["verdict"].to_list()),
            "told": told(rows["verdict"].to_list()),
            "signs": signs(rows["verdict"].to_list()),
            "effect": effects(rows),
            "reason": "; ".join(rows.filter(verdict="not testable")["reason"].unique().sort()),
        }
    datasets = [d.name for d in plan.study.datasets if any(d.name in row for row in cells.values())]
    return {
        "number": tests["claim"][0],
        "statement": tests["statement"][0],
        "verdict": overall(tests.filter(variant=main)["verdict"].to_list()),
        "told": told(tests.filter(variant=main)["verdict"].to_list()),
        "way": words.VARIANTS.get(main, main),
        "survival": survival(tests),
        "stands": stands(tests),
        "others": [
            (
                words.VARIANTS.get(variant, variant),
                told(tests.filter(variant=variant)["verdict"].to_list()),
            )
            for variant in variants
            if variant != main
        ],
        "evidence": EVIDENCE[tests["claim"][0]],
        "datasets": [(name, named[name]) for name in datasets],
        "models": [(m.name, m.label) for m in plan.study.models if m.name in cells],
        "cells": cells,
    }


def main_variant(tests: pl.DataFrame) -> str:
    """Return the variant that the verdict on a part of a claim is read from."""
    variants = words.in_order(tests["variant"], words.VARIANTS)
    return next(variant for variant in (*MAIN_VARIANTS, *variants) if variant in variants)


def overall(verdicts: list[str]) -> str:
    """Return one word for several verdicts: theirs if the testable ones agree, else mixed.

    ``mostly VERDICT`` where one verdict has :data:`MOSTLY` of the testable ones.
    """
    testable = Counter(verdict for verdict in verdicts if verdict != "not testable")
    if not testable:
        return "not testable"
    ((verdict, count),) = testable.most_common(1)
    if count == testable.total():
        return verdict
    return f"mostly {verdict}" if count >= MOSTLY * testable.total() else "mixed"


def sign(verdict: str) -> str:
    """Return the sign of what :func:`overall` says."""
    return words.VERDICT_SIGNS.get(verdict.removeprefix("mostly "), "±")


def told(verdicts: list[str]) -> str:
    """Return the verdicts counted, in words."""
    counts = Counter(verdicts)
    return ", ".join(f"{counts[v]} {v}" for v in words.VERDICTS if counts[v])


def survival(tests: pl.DataFrame) -> str:
    """Return how many supported tests stand with length taken out; nothing if none can be asked."""
    found = Counter(tests["survives"].drop_nulls())
    if not found:
        return ""
    total, told = found.total(), {"yes": "stand", "no": "fall", "unclear": "stay open"}
    parts = [f"{found[verdict]} {told[verdict]}" for verdict in told if found[verdict]]
    return f"With length taken out, of {total} supported tests {', '.join(parts)}."


def stands(tests: pl.DataFrame) -> str:
    """Return in a few words whether supported tests stand with length taken out."""
    found = set(tests["survives"].drop_nulls())
    if not found:
        return ""
    if "yes" in found:
        how = "also" if found == {"yes"} else "in part"
    else:
        how = "not" if "no" in found else "perhaps not"
    return f"{how} with length taken out"


def signs(verdicts: list[str]) -> str:
    """Return the verdicts counted, in signs: for tables with many columns."""
    counts = Counter(verdicts)
    return " ".join(
        f"{words.VERDICT_SIGNS[v]}\N{NO-BREAK SPACE}{counts[v]}"
        for v in words.VERDICTS
        if counts[v]
    )


def effects(rows: pl.DataFrame) -> str:
    """Return the effects of the tests of one model and dataset, by projection, for a tooltip."""
    lines = []
    for row in rows.sort("projection").iter_rows(named=True):
        if row["effect"] is not None:
            interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if row["low"] is not None else ""
            lines.append(
                f"{row['projection']}: {row['effect']:.3g}{interval}, n = {row['samples']}"
            )
    return "\n".join([rows["effect_name"][0], *lines]) if lines else ""


# --------------------------------------------------------------------------------------- health


def health_section(plan: Plan) -> dict[str, Any]:
    """Return what went wrong or might have: failed samples, checks of models, prompts, audit."""
    return {
        "failures": failures(plan),
        "most_failures": MOST_FAILURES,
        "preflight": preflight(plan),
        "refused": refused(plan),
        "prompts": prompts(plan),
        "audit": audit(plan),
    }


def failures(plan: Plan) -> list[dict[str, Any]]:
    """Return the samples that failed, as far as their files are here."""
    found = []
    for model, dataset in plan.pairs:
        index = read_json(plan.spectra_file(model, dataset)) or {"cells": []}
        for cell in index["cells"]:
            if cell["failed"] and Path(cell["failures"]).exists():
                rows = read_table(cell["failures"], FAILURES)
                found += rows.with_columns(named(plan, model, dataset)).to_dicts()
    return found


def named(plan: Plan, model: str, dataset: str) -> list[pl.Expr]:
    """Return the names for people of a pair, as columns."""
    return [
        pl.lit(plan.study.model(model).label).alias("model"),
        pl.lit(plan.study.dataset(dataset).label).alias("dataset"),
    ]


def preflight(plan: Plan) -> list[dict[str, Any]]:
    """Return the preflight checks of each model that has a result, each with its status."""
    return [
        {**check, "model": model.label}
        for model in plan.study.models
        for check in (read_json(plan.preflight_file(model.name)) or {}).get("checks", [])
    ]


def refused(plan: Plan) -> dict[str, str]:
    """Return label -> what was wrong, of each model that failed its preflight."""
    wrong: dict[str, list[str]] = {}
    for check in preflight(plan):
        if check["status"] == "failed":
            wrong.setdefault(check["model"], []).append(f"{check['name']}: {check['detail']}")
    return {model: "; ".join(told) for model, told in wrong.items()}


def prompts(plan: Plan) -> list[dict[str, Any]]:
    """Return one prompt of each model, dataset and response, and what is to be said of them."""
    found = []
    for model, dataset in plan.pairs if plan.study.report.prompts else []:
        shown = (read_json(plan.spectra_file(model, dataset)) or {}).get("examples")
        if shown:
            names = {
                "model": plan.study.model(model).label,
                "dataset": plan.study.dataset(dataset).label,
            }
            found.append(names | shown)
    return found


def audit(plan: Plan, file: Path = Path(AUDIT_FILE)) -> dict[str, Any] | None:
    """Return the audit of the study's datasets as tables, None if it is not here."""
    if recorded_key(file) != plan.audit_key:
        return None
    found = read_table(file, AUDIT)
    parts = [wide(found)]
    if found.filter(pl.col("model") != "").height:
        parts.append(wide(found, tokens=True))
    left_out = (read_provenance(file) or {}).get("left_out", {})
    return {
        "tables": [audit_table(plan, part) for part in parts],
        "left_out": [
            f"{plan.study.dataset(name).label}: {line}"
            for name, lines in left_out.items()
            for line in lines
        ],
        "measures": {name.replace("_", " "): text for name, text in MEASURES.items()},
    }


def audit_table(plan: Plan, table: pl.DataFrame) -> dict[str, Any]:
    """Return one table of the audit as texts, named for people."""
    named = labels(plan.study)
    names = [name for name in ("dataset", "model") if name in table.columns]
    table = table.with_columns(
        pl.col(names).replace(named),
        pl.col("response")
        .cast(pl.String)
        .map_elements(words.response_title, return_dtype=pl.String),
    )
    keys = ["dataset", "response", "control", *names[1:]]
    return {
        "keys": len(keys),
        "columns": [name.replace("_", " ") for name in table.columns],
        "rows": [[cell_text(value) for value in row] for row in table.iter_rows()],
    }


def cell_text(value: Any) -> str:
    """Return a cell of a table as text."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ----------------------------------------------------------------------------------- provenance


def page_provenance(plan: Plan, statistics: Path) -> dict[str, Any]:
    """Return what the page was made from."""
    return {
        "pairs": [
            {
                "model": plan.study.model(model).label,
                "dataset": plan.study.dataset(dataset).label,
                "file": plan.spectra_file(model, dataset),
                "statistics": plan.statistics_key(model, dataset),
                "made": made(plan, model, dataset),
            }
            for model, dataset in plan.pairs
        ],
        "tables_key": plan.tables_key,
        "statistics_versions": (
            (read_provenance(statistics / "curves.parquet") or {}).get("versions", {})
        ),
        "versions": versions("layergrad", "altair", "polars", "vl-convert-python", "jinja2"),
        "study": json.dumps(plan.study.model_dump(mode="json"), indent=1, ensure_ascii=False),
    }


def made(plan: Plan, model: str, dataset: str) -> str:
    """Return how the spectra of a pair were measured: device and versions, as they record it."""
    for cell in plan.cells(model, dataset):
        recorded = read_provenance(plan.cell_file(cell)) or {}
        if "made" in recorded:
            return flat(recorded["made"])
    return "recorded in the spectra, which are not here"


def flat(values: dict[str, Any]) -> str:
    """Return nested values on one line."""
    parts = []
    for name, value in values.items():
        parts.append(flat(value) if isinstance(value, dict) else f"{name} {value}")
    return ", ".join(parts)
