"""The results on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from layergrad.provenance import write_json
from layergrad.report.captions import number
from layergrad.report.overview import overview, say_what_failed
from layergrad.tables import CURVES, read_table
from tests.unit.test_report_figures import measured


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield measured(folder)


def printed(plan, **options) -> str:
    file = io.StringIO()
    overview(plan, Console(file=file, width=140, highlight=False, **options))
    return file.getvalue()


def test_means_and_claims_are_printed(plan):
    text = printed(plan)
    curves = read_table("data/statistics/curves.parquet", CURVES)
    mean = curves.filter(
        pl.col("metric") == "nuclear_norm",
        dataset="gsm_symbolic",
        response="none",
        control="correct",
    )["mean"].mean()
    (line,) = (line for line in text.splitlines() if "None (fast)" in line)
    assert number(mean) in line
    assert "1. Fast thinking gives larger gradients than slow thinking" in text
    assert "supported as measured" in text
    assert "with length taken out" in text
    assert "59 samples measured, 1 failed (1 no_response_tokens)." in text


def test_a_model_that_failed_its_preflight_is_named_with_the_reason(plan):
    model = plan.study.models[0]
    file = plan.preflight_file(model.name)
    check = {"name": "causality", "status": "failed", "detail": "moves by [0.3]"}
    write_json({"checks": [check]}, file)
    said = f"{model.label} FAILED its preflight and was not measured: causality: moves by [0.3]"
    assert said in printed(plan)
    Path(file).unlink()
    assert "preflight" not in printed(plan)


def test_it_is_loud_when_nothing_was_measured(plan):
    file = io.StringIO()
    counts = {"samples": [0, 0], "failed": [2, 3], "reasons": ["preflight: 2", "preflight: 3"]}
    say_what_failed(plan, pl.DataFrame(counts), Console(file=file, width=140))
    assert "0 samples measured, 5 failed (5 preflight)." in file.getvalue()
    assert "NOTHING WAS MEASURED" in file.getvalue()


def test_colours_only_where_they_are_wanted(plan, monkeypatch):
    assert "\x1b[" not in printed(plan)
    assert "\x1b[32m" in printed(plan, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed(plan, force_terminal=True, color_system="standard")
