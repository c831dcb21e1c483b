"""``layergrad explain``: what a file was made from, and whether it is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import read_json, write_json
from layergrad.report.draw import draw
from layergrad.report.explain import explain, flat
from tests.unit.test_report_figures import measured

FIGURE = "curves.tiny-base.gsm_symbolic"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = measured(folder)
        draw(plan, FIGURE, Path("reports/figures"))
        yield plan


def told(plan: Plan, file: str) -> str:
    return "\n".join(explain(plan, Path(file)).lines())


@pytest.mark.parametrize("file", [f"reports/figures/{FIGURE}.svg", f"reports/tables/{FIGURE}.csv"])
def test_a_figure_is_walked_back_to_its_sources(plan, file):
    text = told(plan, file)
    assert explain(plan, Path(file)).status == "current"
    for place in (
        plan.statistics_file("tiny-base", "gsm_symbolic", "curves"),
        plan.spectra_file("tiny-base", "gsm_symbolic"),
        plan.dataset_file("gsm_symbolic"),
        plan.model_file("tiny-base"),
    ):
        assert place in text
    assert "generator gsm_symbolic" in text
    assert "sha256" in text
    assert "altair" in text


def test_a_changed_setting_makes_files_outdated(plan):
    settings = plan.study.statistics.model_copy(update={"seed": 7})
    other = Plan(plan.study.model_copy(update={"statistics": settings}))
    figure = explain(other, Path(f"reports/figures/{FIGURE}.svg"))
    assert figure.status.startswith("outdated")
    (statistics,) = figure.sources
    assert statistics.status == "missing"
    assert statistics.sources[0].status == "current"
    assert explain(other, Path("data/statistics/mad.parquet")).status.startswith("outdated")


def test_every_kind_of_file_is_known(plan):
    cell = plan.all_cells[0]
    for file in (
        plan.statistics_file("tiny-base", "gsm_symbolic", "mad"),
        plan.spectra_file("tiny-base", "gsm_symbolic"),
        plan.cell_file(cell),
        "data/statistics/findings.parquet",
        "data/statistics/sums.json",
        plan.checksums_file("tiny-base", "gsm_symbolic"),
    ):
        node = explain(plan, Path(file))
        assert node.status == "current"
        assert node.path == file


def test_files_of_another_study_are_named_so(plan):
    small = plan.study.model_copy(update={"datasets": plan.study.datasets[1:]})
    for file in (
        plan.spectra_file("tiny-base", "gsm_symbolic"),
        plan.checksums_file("tiny-base", "gsm_symbolic"),
    ):
        assert "not in the study" in told(Plan(small), file)


def test_an_outdated_file_tells_of_itself_not_of_what_the_study_has_now(plan):
    more = Plan(plan.study.model_copy(update={"samples": plan.study.samples + 1}))
    index = plan.spectra_file("tiny-base", "gsm_symbolic")
    record = read_json(index)
    sums = [cell["sha256"] for cell in record["cells"]]
    other = more.spectra_file("tiny-base", "gsm_symbolic")
    write_json({"key": more.spectra_key("tiny-base", "gsm_symbolic"), "cells": []}, other)
    text = told(more, index)
    assert "outdated: it records" in text
    assert all(sum_ in text for sum_ in sums)
    text = told(more, plan.statistics_file("tiny-base", "gsm_symbolic", "mad"))
    assert "outdated" in text
    assert all(sum_ in text for sum_ in sums)
    assert other not in text


def test_other_files_are_refused(plan):
    with pytest.raises(UserError, match="no such file"):
        explain(plan, Path("reports/nothing.svg"))
    with pytest.raises(UserError, match="outside the project"):
        explain(plan, Path("/usr"))
    Path("notes.txt").write_text("")
    with pytest.raises(UserError, match="no result of the workflow"):
        explain(plan, Path("notes.txt"))


def test_values_on_one_line():
    assert flat({"a": 1, "b": {"c": "x", "d": None}, "e": ["y", "z"]}) == "a 1, c x, e y z"
