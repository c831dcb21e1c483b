"""The results on a terminal."""

from __future__ import annotations

import io

import polars as pl
import pytest
from rich.console import Console

from layergrad.report.captions import number
from layergrad.report.overview import overview
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
    assert "59 samples measured, 1 failed." in text


def test_colours_only_where_they_are_wanted(plan, monkeypatch):
    assert "\x1b[" not in printed(plan)
    assert "\x1b[32m" in printed(plan, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed(plan, force_terminal=True, color_system="standard")
