"""The families of figures: the table that each shows, its rows and its chart.

The page fills the same charts with the reader's choice, so a chart takes its rows by name or as a
frame, and its look (axis by number or depth, logarithmic or linear) as options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import altair as alt
import polars as pl

from layergrad.config import CUT, Study
from layergrad.figures import tuned_families
from layergrad.report.figures import (
    auc,
    controls,
    curves,
    knowledge,
    length,
    mad,
    rd,
    spectra,
    tuning,
)
from layergrad.tables import CURVES, DISCRIMINATION, FINDINGS, LENGTHS, MAD, RANKS, RD, Table

Data = pl.DataFrame | alt.NamedData


@dataclass(frozen=True)
class Family:
    """Figures of one kind.

    Attributes
    ----------
    table
        The table over all pairs that they show.
    rows
        From the table's rows of one figure to the figure's own; None where it takes more than
        these to tell (see the functions below).
    chart
        ``chart(data, responses, metric, **look)``.
    look
        What a reader may choose of its look: ``depth`` and ``scale``.
    """

    table: Table
    rows: Callable[[pl.DataFrame], pl.DataFrame] | None
    chart: Callable[..., alt.FacetChart]
    look: tuple[str, ...] = ()


FAMILIES = {
    "curves": Family(CURVES, curves.rows, curves.chart, ("depth", "scale")),
    "mad": Family(MAD, mad.rows, mad.chart, ("scale",)),
    "rd": Family(RD, rd.rows, rd.chart, ("depth",)),
    "auc": Family(
        DISCRIMINATION, auc.rows, lambda data, responses, metric: auc.chart(data, responses)
    ),
    "length": Family(LENGTHS, length.rows, length.chart, ("scale",)),
    "controls": Family(
        FINDINGS, controls.rows, lambda data, responses, metric: controls.chart(data)
    ),
    "spectra": Family(
        RANKS,
        spectra.rows,
        lambda data, responses, metric, **look: spectra.chart(data, responses, **look),
        ("scale",),
    ),
    "tuning": Family(CURVES, None, tuning.chart, ("depth", "scale")),
    "knowledge": Family(
        LENGTHS,
        None,
        lambda data, responses, metric, **look: knowledge.chart(data, metric, **look),
        ("scale",),
    ),
}
# A choice of look by name -> the chart's option.
LOOKS = {
    "depth": {"layer": {"relative": False}, "relative": {"relative": True}},
    "scale": {"log": {"log": True}, "linear": {"log": False}},
}


def pair_rows(frame: pl.DataFrame, family: str, model: str, dataset: str) -> pl.DataFrame:
    """Return what a family shows of one model and dataset, all metrics and controls."""
    return FAMILIES[family].rows(whole(frame.filter(model=model, dataset=dataset)))


def tuning_rows(frame: pl.DataFrame, study: Study, family: str, dataset: str) -> pl.DataFrame:
    """Return the curves of the base and instruct models of one family on one dataset."""
    members = {model.name: (model.tuning, model.label) for model in tuned_families(study)[family]}
    return tuning.rows(whole(frame.filter(dataset=dataset)), members)


def knowledge_rows(frame: pl.DataFrame, study: Study, model: str) -> pl.DataFrame:
    """Return medians by dataset and response of one model, correct responses."""
    datasets = {dataset.name: (dataset.task, dataset.label) for dataset in study.datasets}
    return knowledge.rows(whole(frame.filter(model=model)), datasets, "correct")


def whole(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of whole responses: those cut to equal length serve the findings alone."""
    return frame.filter(~pl.col("response").str.ends_with(CUT)) if "response" in frame else frame
