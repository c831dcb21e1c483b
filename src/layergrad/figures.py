"""Which figures a study has, and what each is drawn from. Light: the workflow reads this too.

A name is a family and what the figure shows, with dots between: ``curves.MODEL.DATASET``,
``knowledge.MODEL``, ``tuning.FAMILY.DATASET``, ``samples``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from layergrad.config import DatasetSpec, ModelSpec, Study
from layergrad.errors import UserError

# Families drawn for each model and dataset, in the order of the page.
PAIR_FAMILIES = ("curves", "mad", "rd", "auc", "length", "controls", "spectra")
# Families drawn once, over the whole study.
STUDY_FAMILIES = ("findings", "samples")


@dataclass(frozen=True)
class Figure:
    """One figure: its name, its family and the (model, dataset) pairs that it shows."""

    name: str
    family: str
    pairs: tuple[tuple[str, str], ...]


def figures(study: Study) -> list[Figure]:
    """Return the figures of a study."""
    every = tuple((m.name, d.name) for m in study.models for d in study.datasets)
    return [
        *(
            Figure(f"{family}.{model}.{dataset}", family, ((model, dataset),))
            for family in PAIR_FAMILIES
            for model, dataset in every
            if has_family(study, study.dataset(dataset), family)
        ),
        *(
            Figure(
                f"tuning.{slug(family)}.{dataset.name}",
                "tuning",
                tuple((model.name, dataset.name) for model in members),
            )
            for family, members in tuned_families(study).items()
            for dataset in study.datasets
        ),
        *(
            Figure(
                f"knowledge.{model.name}",
                "knowledge",
                tuple((model.name, dataset.name) for dataset in study.datasets),
            )
            for model in study.models
            if has_knowledge(study)
        ),
        *(Figure(family, family, every) for family in STUDY_FAMILIES),
    ]


def paper_figures(study: Study) -> list[Figure]:
    """Return the figures and tables of the original study, in the form of a paper's."""
    every = [(m.name, d.name) for m in study.models for d in study.datasets]
    return [
        *(
            Figure(f"curves.{model}.{dataset}", "curves", ((model, dataset),))
            for model, dataset in every
        ),
        *(
            Figure(f"rd.{model}.{dataset}", "rd", ((model, dataset),))
            for model, dataset in every
            if has_family(study, study.dataset(dataset), "rd")
        ),
        *(
            Figure(f"mad.{model.name}", "mad", tuple((model.name, d.name) for d in study.datasets))
            for model in study.models
        ),
    ]


def has_family(study: Study, dataset: DatasetSpec, family: str) -> bool:
    """Tell whether a family applies to a dataset.

    RD and AUC need a correct and a wrong control, length controls two responses to compare.
    """
    controls = study.controls_of(dataset)
    if family in {"rd", "auc"}:
        return "correct" in controls and len(controls) > 1
    return family != "controls" or len(dataset.responses) > 1


def tuned_families(study: Study) -> dict[str, list[ModelSpec]]:
    """Return the families that have a base and an instruct model, each with its models."""
    members: dict[str, list[ModelSpec]] = {}
    for model in study.models:
        members.setdefault(model.family, []).append(model)
    return {
        family: models
        for family, models in members.items()
        if {model.tuning for model in models} == {"base", "instruct"}
    }


def has_knowledge(study: Study) -> bool:
    """Tell whether a study has a dataset in which responses differ in length, not in thinking."""
    return any(dataset.task == "knowledge" for dataset in study.datasets)


def slug(family: str) -> str:
    """Return a family's name as it stands in names of files."""
    return re.sub(r"[^a-z0-9_-]+", "-", family.lower()).strip("-") or "family"


def figure_names(study: Study) -> list[str]:
    """Return the names of the figures of a study."""
    return [figure.name for figure in figures(study)]


def find_figure(study: Study, name: str) -> Figure:
    """Return the figure of that name; a :class:`UserError` names the nearest one otherwise."""
    return _find("figure", figures(study), name)


def find_paper_figure(study: Study, name: str) -> Figure:
    """Return the paper's figure or table of that name, as :func:`find_figure`."""
    return _find("figure or table of the paper", paper_figures(study), name)


def _find(what: str, listed: list[Figure], name: str) -> Figure:
    known = {figure.name: figure for figure in listed}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise UserError(f"unknown {what} {name!r}; {hint}")
