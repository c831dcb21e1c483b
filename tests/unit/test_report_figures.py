"""Figures: names, keys, numbers, provenance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from layergrad.config import Study
from layergrad.errors import UserError
from layergrad.plan import OWN_CAPTIONS, Plan
from layergrad.provenance import recorded_key
from layergrad.report.draw import draw
from layergrad.report.figures import length, theme, words
from layergrad.statistics.pair import aggregate
from layergrad.statistics.study import collect
from layergrad.tables import CURVES, read_table
from tests.synthetic import tiny_study, write_study_spectra


def measured(
    folder: Path,
    models: tuple[str, ...] = ("tiny-base",),
    failed: dict[tuple[str, str], int] | None = None,
    **changes: object,
) -> Plan:
    """Leave below `folder` the tables of a synthetic study, its last sample failed."""
    study = tiny_study(models, **{"samples": 5, "statistics": {"draws": 100}, **changes})
    return aggregated(folder, study, failed)


def aggregated(
    folder: Path, study: Study, failed: dict[tuple[str, str], int] | None = None
) -> Plan:
    """Leave below `folder` the tables of a study with synthetic spectra."""
    plan = Plan(study)
    write_study_spectra(folder, study, failed=failed or {("detailed", "irrelevant"): 1})
    for pair in plan.pairs:
        target = Path(plan.statistics_file(*pair, "curves")).parent
        aggregate(plan, *pair, Path(plan.spectra_file(*pair)), target)
    collect(plan, None, Path("data/statistics"))
    return plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield measured(folder)


def test_every_figure_of_a_study_is_drawn_with_its_key(plan):
    for name in plan.figures:
        draw(plan, name, Path("reports/figures"))
        files = plan.figure_files(name)
        assert [file for file in files if not Path(file).stat().st_size] == []
        assert recorded_key(f"reports/figures/{name}.json") == plan.figure_key(name)


def test_a_figure_shows_the_numbers_of_the_table(plan):
    name = "curves.tiny-base.gsm_symbolic"
    draw(plan, name, Path("reports/figures"))
    with open(f"reports/tables/{name}.csv") as file:
        rows = list(csv.DictReader(file))
    table = read_table("data/statistics/curves.parquet", CURVES).filter(
        model="tiny-base", dataset="gsm_symbolic", control="correct", metric="nuclear_norm"
    )
    assert len(rows) == table.height
    row = table.row(
        by_predicate=(pl.col("response") == "none")
        & (pl.col("layer") == 2)
        & (pl.col("projection") == "v"),
        named=True,
    )
    (shown,) = (
        r for r in rows if (r["response"], r["layer"], r["projection"]) == ("None (fast)", "2", "v")
    )
    assert float(shown["mean"]) == row["mean"]
    assert float(shown["low"]) == row["low"]
    spec = json.loads(Path(f"reports/figures/{name}.json").read_text())
    (data,) = spec["datasets"].values()
    assert {r["mean"] for r in data} == set(table["mean"])


def test_figures_are_equal_from_run_to_run(plan):
    name = "mad.tiny-base.gsm_symbolic"
    contents = []
    for _ in range(2):
        draw(plan, name, Path("reports/figures"))
        contents.append([Path(file).read_bytes() for file in plan.figure_files(name)])
    assert contents[0] == contents[1]


def test_svg_says_what_it_is_and_what_it_was_made_from(plan):
    name = "rd.tiny-base.gsm_symbolic"
    draw(plan, name, Path("reports/figures"))
    svg = Path(f"reports/figures/{name}.svg").read_text()
    assert "<title>Nuclear norm: relative difference of wrong responses by layer</title>" in svg
    assert "irrelevant against correct responses" in svg
    assert plan.figure_key(name) in svg
    assert plan.statistics_key("tiny-base", "gsm_symbolic") in svg


def test_a_model_note_stands_in_the_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tiny_study(("tiny-base",), ("gsm_symbolic",), samples=2, statistics={"draws": 100})
    noted = study.models[0].model_copy(update={"note": "Weights were rounded & more."})
    plan = Plan(study.model_copy(update={"models": [noted]}))
    write_study_spectra(tmp_path, plan.study)
    for pair in plan.pairs:
        target = Path(plan.statistics_file(*pair, "curves")).parent
        aggregate(plan, *pair, Path(plan.spectra_file(*pair)), target)
    collect(plan, None, Path("data/statistics"))
    draw(plan, "curves.tiny-base.gsm_symbolic", Path("out"))
    assert (
        "Weights were rounded &amp; more."
        in Path("out/curves.tiny-base.gsm_symbolic.svg").read_text()
    )


def test_a_figure_key_holds_only_what_the_figure_shows():
    study = tiny_study()
    name = "curves.tiny-base.gsm_symbolic"
    key = Plan(study).figure_key(name)

    def changed(**update):
        return Plan(study.model_copy(update=update)).figure_key(name)

    assert changed(models=study.models[:1]) == key
    assert changed(datasets=study.datasets[:1]) == key
    assert changed(report=study.report.model_copy(update={"title": "Other"})) == key
    assert changed(report=study.report.model_copy(update={"metric": "effective_rank"})) != key
    assert changed(samples=study.samples + 1) != key
    noted = study.models[0].model_copy(update={"note": "Rounded weights."})
    assert changed(models=[noted, *study.models[1:]]) != key


def test_the_page_key_holds_captions_and_title(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    key, figure = Plan(study).page_key, Plan(study).figure_key("samples")
    report = study.report.model_copy(update={"title": "Other"})
    assert Plan(study.model_copy(update={"report": report})).page_key != key
    OWN_CAPTIONS.mkdir(parents=True)
    (OWN_CAPTIONS / "curves.md.j2").write_text("More.\n")
    assert Plan(study).page_key != key
    assert Plan(study).figure_key("samples") == figure


def test_rd_is_drawn_only_where_there_is_a_wrong_control():
    study = tiny_study(controls=["correct"])
    assert not [name for name in Plan(study).figures if name.startswith("rd.")]


def test_unknown_names_and_tables_of_another_study_are_refused(plan):
    with pytest.raises(UserError, match=r"did you mean 'curves.tiny-base.gsm_symbolic'"):
        draw(plan, "curves.tiny-base.gsm_symbolik", Path("out"))
    other = Plan(tiny_study(samples=4, statistics={"draws": 100}))
    with pytest.raises(UserError, match="holds tables of key"):
        draw(other, "samples", Path("out"))
    report = plan.study.report.model_copy(update={"metric": "spectral_norm"})
    other = Plan(plan.study.model_copy(update={"report": report}))
    with pytest.raises(UserError, match=r"not among statistics\.metrics"):
        draw(other, "curves.tiny-base.gsm_symbolic", Path("out"))


def test_thinning_keeps_the_same_instructions_of_every_cell():
    rows = pl.DataFrame(
        [
            {"row": 3 * i, "response": response, "value": 1.0}
            for i in range(100)
            for response in ("a", "b")
        ]
    )
    kept = length.thinned(rows, 50)
    assert 0 < kept.height <= 50
    by_response = kept.group_by("response").agg(pl.col("row").sort())
    assert by_response["row"][0].to_list() == by_response["row"][1].to_list()
    assert length.thinned(rows, 200).height == 200


def test_colours_reach_three_to_one_against_white():
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in theme.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, colour


def test_more_responses_than_colours_still_get_a_look():
    titles = [f"response {i}" for i in range(9)]
    marks = theme.by_response(titles)
    assert len(marks["shape"].to_dict()["scale"]["range"]) == 9


def test_names_for_people():
    assert words.response_title("len100") == "Length 100"
    assert words.response_title("my_own") == "My own"
    assert words.in_order(["x", "o", "q"], words.PROJECTIONS) == ["q", "o", "x"]


def test_figures_are_found_by_labels():
    plan = Plan(tiny_study())
    assert plan.figure_labels("rd.tiny-base.knowledge") == {
        "figure": "rd",
        "model": "tiny-base",
        "dataset": "knowledge",
    }
    assert plan.figure_labels("knowledge.tiny-base")["dataset"] == "all"
    assert plan.figure_labels("samples") == {"figure": "samples", "model": "all", "dataset": "all"}
