"""One page that holds the whole report: self-contained, offline, on any screen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import polars as pl
import vl_convert

from layergrad.config import DatasetSpec
from layergrad.plan import CAPTIONS, Plan
from layergrad.provenance import read_json, read_provenance, versions, write_text
from layergrad.report import draw, facts
from layergrad.report.captions import Captions
from layergrad.report.figures import length, samples, theme, words
from layergrad.report.names import PAIR_FAMILIES, has_family
from layergrad.tables import DATASET, SAMPLES, TABLES, read_table

# Above this size the numbers go into files beside the page, one a model, loaded when it is chosen.
MOST_INLINE = 5_000_000
# Rows of single samples in the page for each dataset: enough to see the cloud.
SAMPLE_ROWS = 6000
EXAMPLE_CHARACTERS = 700
SIGNIFICANT_DIGITS = 5
# Which choices of the reader change the look of a family (the others change its rows).
LOOKS = {
    "curves": ("depth", "scale"),
    "mad": ("scale",),
    "rd": ("depth",),
    "length": ("scale",),
}
CHOICES = {
    "depth": {"layer": {"relative": False}, "relative": {"relative": True}},
    "scale": {"log": {"log": True}, "linear": {"log": False}},
}
# Stands in a template for the metric's title; its first letter is small within a sentence.
METRIC = "METRICTITLE"


def write_page(plan: Plan, output: Path, statistics: Path = Path("data/statistics")) -> None:
    """Write the report's page, and files of numbers beside it if the study is large.

    Parameters
    ----------
    plan
        The study.
    output
        The page, HTML.
    statistics
        Folder of the tables over all pairs.

    Raises
    ------
    UserError
        If a table is missing or of another study, or a caption cannot be rendered.
    """
    captions = Captions(CAPTIONS)
    frames = {
        family: draw.study_table(plan, table, statistics)
        for family, (table, _) in draw.PAIR_MODULES.items()
    }
    data = {m.name: model_data(plan, m.name, frames, captions) for m in plan.study.models}
    scripts = {
        name: f"layergrad.receive({as_script([name, found])});" for name, found in data.items()
    }
    inline = sum(map(len, scripts.values())) <= MOST_INLINE
    folder = output.parent / "data"
    names = {name: f"{name}.{plan.page_key}.js" for name in scripts}
    if not inline:
        for name, script in scripts.items():
            write_text(script, folder / names[name])
    page = environment().get_template("page.html.j2")
    html = page.render(
        key=plan.page_key,
        study=plan.study,
        words=words,
        bundle=vl_convert.javascript_bundle(vl_version=draw.VEGA_LITE),
        settings=as_script(page_settings(plan, {} if inline else names)),
        scripts=list(scripts.values()) if inline else [],
        samples=samples_section(plan, statistics, captions),
        examples=[example(plan, spec) for spec in plan.study.datasets],
        provenance=page_provenance(plan, statistics),
        has_rd=any(has_family(plan.study, spec, "rd") for spec in plan.study.datasets),
    )
    write_text(html, output)
    for old in folder.glob("*.js") if folder.exists() else []:
        if inline or old.name not in names.values():
            old.unlink()


# ---------------------------------------------------------------------------------- the numbers


def model_data(
    plan: Plan, model: str, frames: dict[str, pl.DataFrame], captions: Captions
) -> dict[str, dict[str, Any]]:
    """Return for each dataset the rows of all figures of a model, and their captions."""
    found: dict[str, dict[str, Any]] = {}
    for dataset in plan.study.datasets:
        families = [f for f in PAIR_FAMILIES if has_family(plan.study, dataset, f)]
        rows = {f: draw.pair_rows(frames[f], f, model, dataset.name) for f in families}
        found[dataset.name] = {
            "rows": {
                f: pack(length.thinned(frame, SAMPLE_ROWS) if f == "length" else frame)
                for f, frame in rows.items()
            },
            "captions": {
                f: family_captions(plan, dataset, f, frame, captions) for f, frame in rows.items()
            },
        }
    return found


def family_captions(
    plan: Plan, dataset: DatasetSpec, family: str, rows: pl.DataFrame, captions: Captions
) -> dict[str, dict[str, str]]:
    """Return the captions of a family by metric and control."""
    titles = draw.responses(plan.study, dataset.name)
    rendered: dict[str, dict[str, str]] = {}
    for (metric, control), part in sorted(rows.group_by("metric", "control"), key=lambda g: g[0]):
        values = getattr(facts, family)(part)
        present = [title for title in titles if title in set(part["response"])]
        values |= {
            "metric": words.within_sentence(words.metric_title(metric)),
            "control": control,
            "responses": present,
            "first": present[0],
            "last": present[-1],
            "confidence": f"{100 * plan.study.statistics.confidence:g}",
        }
        if "samples" in values:
            low, high = values["samples"]
            values["n"] = str(low) if low == high else f"{low} to {high}"
        rendered.setdefault(metric, {})[control] = captions.html(family, values)
    return rendered


def pack(rows: pl.DataFrame) -> dict[str, Any]:
    """Return columns as lists: texts once, numbers to five digits, so that the page stays small."""
    packed: dict[str, Any] = {}
    for column in rows.iter_columns():
        if column.dtype == pl.String:
            texts = column.unique().sort().to_list()
            places = {text: i for i, text in enumerate(texts)}
            packed[column.name] = {"texts": texts, "at": [places[text] for text in column]}
        elif column.dtype.is_float():
            packed[column.name] = column.round_sig_figs(SIGNIFICANT_DIGITS).to_list()
        else:
            packed[column.name] = column.to_list()
    return packed


# ---------------------------------------------------------------------------------- the figures


def page_settings(plan: Plan, files: dict[str, str]) -> dict[str, Any]:
    """Return what the page's script needs beside the numbers."""
    study = plan.study
    return {
        "models": {m.name: {"label": m.label, "note": m.note} for m in study.models},
        "datasets": {
            d.name: {
                "label": d.label,
                "responses": draw.responses(study, d.name),
                "controls": study.controls_of(d),
            }
            for d in study.datasets
        },
        "metrics": {
            m: {
                "title": words.metric_title(m),
                "within": words.within_sentence(words.metric_title(m)),
            }
            for m in study.statistics.metrics
        },
        "metric": study.report.metric,
        "titles": words.FAMILIES,
        "looks": LOOKS,
        "templates": templates(plan),
        "placeholder": [METRIC, words.within_sentence(METRIC)],
        "config": theme.CONFIG,
        "files": files,
    }


def templates(plan: Plan) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each family's chart without rows, by look and by the responses it tells apart."""
    sets = {tuple(draw.responses(plan.study, d.name)) for d in plan.study.datasets}
    return {
        family: {
            " ".join(look): {
                "|".join(titles): template(family, look, list(titles)) for titles in sorted(sets)
            }
            for look in itertools.product(*(CHOICES[name] for name in LOOKS[family]))
        }
        for family in PAIR_FAMILIES
    }


def template(family: str, look: tuple[str, ...], titles: list[str]) -> dict[str, Any]:
    """Return one chart of a family, to be filled with rows by the page."""
    options: dict[str, bool] = {}
    for name, choice in zip(LOOKS[family], look, strict=True):
        options |= CHOICES[name][choice]
    chart = draw.PAIR_MODULES[family][1].chart(alt.NamedData("rows"), titles, METRIC, **options)
    spec = chart.to_dict()
    return {name: part for name, part in spec.items() if name not in {"config", "$schema"}}


# --------------------------------------------------------------------------------- the sections


def samples_section(plan: Plan, statistics: Path, captions: Captions) -> dict[str, Any]:
    """Return the counts of samples, cell by cell, and their picture."""
    table = draw.study_table(plan, SAMPLES, statistics)
    reasons = table.filter(pl.col("reasons") != "")["reasons"].to_list()
    spec = samples.chart(
        samples.rows(table, draw.labels(plan.study)), len(plan.study.models)
    ).to_dict()
    spec["config"] = theme.CONFIG
    values = {
        "measured": table["samples"].sum(),
        "lost": table["failed"].sum(),
        "cells": table.height,
        "reasons": "; ".join(reasons),
    }
    return {
        **values,
        "caption": captions.html("samples", values),
        "svg": vl_convert.vegalite_to_svg(spec, vl_version=draw.VEGA_LITE),
        "cells": in_study_order(plan, table).to_dicts(),
    }


def in_study_order(plan: Plan, table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of cells in the order in which the study names them."""
    cells = ("model", "dataset", "response", "control")
    order = pl.DataFrame(plan.all_cells, schema=dict.fromkeys(cells, pl.String), orient="row")
    return order.join(table, on=cells, maintain_order="left")


def example(plan: Plan, spec: DatasetSpec) -> dict[str, Any]:
    """Return one instruction of a dataset with all its responses, if the dataset is here."""
    path = Path(plan.dataset_file(spec.name))
    if not path.exists():
        return {"dataset": spec.label, "instruction": None}
    frame = read_table(path, DATASET)
    rows = frame.filter(pl.col("row") == frame["row"].min())
    order = {response: i for i, response in enumerate(spec.responses)}
    return {
        "dataset": spec.label,
        "instruction": shorten(rows["instruction"][0]),
        "responses": sorted(
            (
                {
                    "response": words.response_title(row["response"]),
                    "control": row["control"],
                    "text": shorten(row["response_text"]),
                    "place": (order[row["response"]], row["control"] != "correct", row["control"]),
                }
                for row in rows.iter_rows(named=True)
            ),
            key=lambda r: r["place"],
        ),
    }


def page_provenance(plan: Plan, statistics: Path) -> dict[str, Any]:
    """Return what the page was made from."""
    return {
        "pairs": [
            {
                "model": plan.study.model(model).label,
                "dataset": plan.study.dataset(dataset).label,
                "file": plan.spectra_file(model, dataset),
                "statistics": plan.statistics_key(model, dataset),
                "spectra": (read_json(plan.spectra_file(model, dataset)) or {}).get("provenance"),
            }
            for model, dataset in plan.pairs
        ],
        "tables_key": plan.tables_key,
        "tables": {
            name: (read_provenance(statistics / f"{name}.parquet") or {}).get("versions", {})
            for name in sorted(TABLES)
            if (statistics / f"{name}.parquet").exists()
        },
        "versions": versions("layergrad", "altair", "polars", "vl-convert-python", "jinja2"),
        "study": json.dumps(plan.study.model_dump(mode="json"), indent=1, ensure_ascii=False),
    }


# -------------------------------------------------------------------------------------- helpers


def environment() -> jinja2.Environment:
    """Return the templates of the page; all text is escaped unless it says otherwise."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_script(value: Any) -> str:
    """Return JSON that may stand inside a script element: no ``<`` ends or opens anything there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def shorten(text: str) -> str:
    """Return a text cut to what an example shows."""
    cut = text[:EXAMPLE_CHARACTERS].rstrip()
    return cut if len(text) <= EXAMPLE_CHARACTERS else f"{cut} …"
