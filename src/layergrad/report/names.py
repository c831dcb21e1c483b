"""Which figures a study has, and what each is drawn from. Light: the workflow reads this too.

A name is a family and what the figure shows, with dots between: ``curves.MODEL.DATASET``,
``samples``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from layergrad.config import DatasetSpec, Study
from layergrad.errors import UserError

# Families drawn for each model and dataset.
PAIR_FAMILIES = ("curves", "mad", "rd", "length")
# Families drawn once, over the whole study.
STUDY_FAMILIES = ("samples",)


@dataclass(frozen=True)
class Figure:
    """One figure: its name, its family and the (model, dataset) pairs that it shows."""

    name: str
    family: str
    pairs: tuple[tuple[str, str], ...]


def figures(study: Study) -> list[Figure]:
    """Return the figures of a study, in the order of the page."""
    every = tuple((m.name, d.name) for m in study.models for d in study.datasets)
    return [
        *(
            Figure(f"{family}.{model}.{dataset}", family, ((model, dataset),))
            for family in PAIR_FAMILIES
            for model, dataset in every
            if has_family(study, study.dataset(dataset), family)
        ),
        *(Figure(family, family, every) for family in STUDY_FAMILIES),
    ]


def has_family(study: Study, dataset: DatasetSpec, family: str) -> bool:
    """Tell whether a family applies: a relative difference needs a correct and a wrong control."""
    controls = study.controls_of(dataset)
    return family != "rd" or ("correct" in controls and len(controls) > 1)


def figure_names(study: Study) -> list[str]:
    """Return the names of the figures of a study."""
    return [figure.name for figure in figures(study)]


def find_figure(study: Study, name: str) -> Figure:
    """Return the figure of that name; a :class:`UserError` names the nearest one otherwise."""
    known = {figure.name: figure for figure in figures(study)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise UserError(f"unknown figure {name!r}; {hint}")
