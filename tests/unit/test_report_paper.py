"""Figures and tables of the original study."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest

from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import recorded_key
from layergrad.report.explain import explain
from layergrad.report.paper import digits, tex, write_paper
from layergrad.tables import MAD, read_table
from tests.unit.test_report_figures import measured

OUT = Path("reports/paper")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield measured(folder)


def test_every_part_of_the_paper_is_written_with_its_key(plan):
    for name in plan.paper:
        write_paper(plan, name, OUT)
        assert [f for f in plan.paper_files(name) if not Path(f).stat().st_size] == []
        assert recorded_key(plan.paper_files(name)[0]) == plan.paper_key(name)
        assert {explain(plan, Path(f)).status for f in plan.paper_files(name)} == {"current"}


def test_the_table_holds_the_mad_of_every_response_and_control(plan):
    write_paper(plan, "mad.tiny-base", OUT)
    with open(OUT / "mad.tiny-base.csv") as file:
        rows = list(csv.DictReader(file))
    mad = read_table("data/statistics/mad.parquet", MAD).filter(
        pl.col("metric") == "nuclear_norm", pl.col("band") == "all"
    )
    assert len(rows) == 2 * 4
    (row,) = (r for r in rows if (r["dataset"], r["projection"]) == ("gsm_symbolic", "v"))
    for control in ("correct", "irrelevant"):
        cell = mad.filter(
            dataset="gsm_symbolic", projection="v", response="detailed", control=control
        )
        assert float(row[f"detailed {control}"]) == cell["value"].item()
    assert row["len100 correct"] == ""
    latex = (OUT / "mad.tiny-base.tex").read_text()
    assert latex.count(r"\midrule") == 2
    assert r"gsm\_symbolic & q &" in latex
    assert digits(cell["value"].item()) in latex
    assert r"\multicolumn{2}{c}{Detailed (slow)}" in latex
    assert latex.count(r"\begin{tabular}{llrrrrrr}") == 2


def test_names_are_checked(plan):
    with pytest.raises(UserError, match=r"did you mean 'mad.tiny-base'"):
        write_paper(plan, "mad.tiny-bas", OUT)


def test_the_paper_of_one_model_does_not_depend_on_another(plan):
    study = plan.study
    other = study.models[0].model_copy(update={"name": "other"})
    wider = Plan(study.model_copy(update={"models": [*study.models, other]}))
    assert wider.paper_key("mad.tiny-base") == plan.paper_key("mad.tiny-base")
    assert "mad.other" in wider.paper


def test_all_three_digits_are_shown():
    assert [digits(v) for v in (0.26, 1.0, 123.4, None)] == ["0.260", "1.00", "123", "--"]


def test_latex_is_escaped():
    assert tex("50% of a_b & {c} \\ ~") == (
        r"50\% of a\_b \& \{c\} \textbackslash{} \textasciitilde{}"
    )
