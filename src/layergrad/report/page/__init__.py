"""One page that holds the whole report: self-contained, offline, on any screen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert

from layergrad.config import metric_label
from layergrad.figures import has_family, has_knowledge, tuned_families
from layergrad.plan import OWN_CAPTIONS, Plan
from layergrad.provenance import checksums, sealed, write_text
from layergrad.report.captions import SHIPPED, Captions
from layergrad.report.draw import VEGA_LITE, responses, study_table
from layergrad.report.families import FAMILIES, LOOKS
from layergrad.report.figures import theme, words
from layergrad.report.page import sections
from layergrad.report.page.numbers import claim_metric, model_data

# Above this size the numbers go into files beside the page, one a model, loaded when it is chosen.
MOST_INLINE = 5_000_000
BESIDE = "The page loads its numbers from here, one file a model, if it cannot hold them itself.\n"
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
    captions = Captions(OWN_CAPTIONS, SHIPPED)
    tables = {family.table.name: family.table for family in FAMILIES.values()}
    read = {name: study_table(plan, table, statistics) for name, table in tables.items()}
    frames = {name: read[family.table.name] for name, family in FAMILIES.items()}
    scripts = {
        model.name: receive(model.name, model_data(plan, model, frames, captions))
        for model in plan.study.models
    }
    inline = sum(map(len, scripts.values())) <= MOST_INLINE
    names = {} if inline else {name: f"{name}.{plan.page_key}.js" for name in scripts}
    folder = output.parent / "data"  # always there and never empty, so that DVC can track it
    write_text(BESIDE, folder / "README.txt")
    files = [folder / file for file in names.values()]
    for name, file in zip(names, files, strict=True):
        write_text(scripts[name], file)
    study = plan.study
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            key=plan.page_key,
            checksums=as_script(checksums(files, output.parent)),
            study=study,
            words=words,
            sign=sections.sign,
            bundle=vl_convert.javascript_bundle(vl_version=VEGA_LITE),
            settings=as_script(settings(plan, names)),
            scripts=list(scripts.values()) if inline else [],
            samples=sections.samples_section(plan, statistics, captions),
            findings=sections.findings_section(plan, statistics, captions),
            examples=[sections.example(plan, spec) for spec in study.datasets],
            health=sections.health_section(plan),
            provenance=sections.page_provenance(plan, statistics),
            claim_metric=claim_metric(plan),
            has={
                "rd": any(has_family(study, spec, "rd") for spec in study.datasets),
                "tuning": bool(tuned_families(study)),
                "knowledge": has_knowledge(study),
            },
        )
    )
    write_text(sealed(html), output)
    for old in set(folder.glob("*.js")) - set(files):
        old.unlink()


def receive(model: str, data: dict[str, Any]) -> str:
    """Return the script that hands a model's numbers to the page."""
    return f"layergrad.receive({as_script([model, data])});"


def settings(plan: Plan, files: dict[str, str]) -> dict[str, Any]:
    """Return what the page's script needs beside the numbers."""
    study = plan.study
    metrics = [metric_label(metric) for metric in study.statistics.metrics]
    return {
        "models": {
            m.name: {
                "label": m.label,
                "note": m.note,
                "tuning": m.tuning,
                "family": [other.name for other in tuned_families(study).get(m.family, [])],
            }
            for m in study.models
        },
        "datasets": {
            d.name: {
                "label": d.label,
                "responses": responses(study, d.name),
                "controls": study.controls_of(d),
            }
            for d in study.datasets
        },
        "metrics": {
            m: {
                "title": words.metric_title(m),
                "within": words.within_sentence(words.metric_title(m)),
            }
            for m in metrics
        },
        "metric": metric_label(study.report.metric),
        "titles": words.FAMILIES,
        "looks": {name: family.look for name, family in FAMILIES.items()},
        "templates": templates(plan),
        "placeholder": [METRIC, words.within_sentence(METRIC)],
        "projections": words.PROJECTIONS,
        "config": theme.CONFIG,
        "files": files,
    }


def templates(plan: Plan) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each family's chart without rows, by look and by the responses it tells apart."""
    sets = sorted({tuple(responses(plan.study, d.name)) for d in plan.study.datasets})
    return {
        name: {
            " ".join(look): {"|".join(titles): template(name, look, titles) for titles in sets}
            for look in itertools.product(*(LOOKS[choice] for choice in family.look))
        }
        for name, family in FAMILIES.items()
    }


def template(name: str, look: tuple[str, ...], titles: tuple[str, ...]) -> dict[str, Any]:
    """Return one chart of a family, to be filled with rows by the page."""
    options: dict[str, bool] = {}
    for choice, value in zip(FAMILIES[name].look, look, strict=True):
        options |= LOOKS[choice][value]
    spec = FAMILIES[name].chart(alt.NamedData("rows"), list(titles), METRIC, **options).to_dict()
    return {part: value for part, value in spec.items() if part not in {"config", "$schema"}}


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
