"""What a study costs: cells by state, and an estimate in GPU hours."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from layergrad.cli import app
from layergrad.config import load_study, resolve_study
from layergrad.cost import Cost, describe_cost
from layergrad.plan import Plan
from layergrad.tables import FAILURES, SPECTRA, write_table
from tests.unit.test_datasets_build import MODEL

ROOT = Path(__file__).parents[2]
LLAMA = {**MODEL, "billions": 8.03, "layers": 32}


def plan(**changes):
    raw = {"models": [LLAMA], "datasets": ["knowledge"], "samples": 10, **changes}
    return Plan(resolve_study(raw, ROOT / "catalog"))


def write_cell(planned, cell, rows, failed):
    file = Path(planned.cell_file(cell))
    names = {**cell._asdict(), "sample_id": "s", "row": 0}
    spectrum = {
        **names,
        "layer": 0,
        "projection": "q",
        "tokens": 3,
        "response_tokens": 1,
        "loss": 1.0,
        "singular_values": [1.0],
        "content": "c",
    }
    spectra = pl.DataFrame([spectrum] * rows, schema=SPECTRA.schema)
    failure = {**names, "reason": "too_long", "detail": ""}
    failures = pl.DataFrame([failure] * failed, schema=FAILURES.schema)
    write_table(spectra, SPECTRA, file, {})
    write_table(failures, FAILURES, file.with_suffix(".failures.parquet"), {})


def test_cells_are_done_failed_or_missing(tmp_path, monkeypatch):
    planned = plan()
    monkeypatch.chdir(tmp_path)
    cells = planned.all_cells
    write_cell(planned, cells[0], rows=4, failed=0)
    write_cell(planned, cells[1], rows=4, failed=2)
    write_cell(planned, cells[2], rows=0, failed=5)
    (model,) = Cost(planned).models
    assert (model.all, model.done, model.failed, model.missing) == (6, 2, 1, 3)
    assert model.failed_samples == 7
    assert "could not be measured, in done and failed cells: 7" in describe_cost(Cost(planned))


def test_only_missing_cells_cost(tmp_path, monkeypatch):
    planned = plan()
    monkeypatch.chdir(tmp_path)
    before = Cost(planned).models[0].hours
    for cell in planned.all_cells[:3]:
        write_cell(planned, cell, rows=4, failed=0)
    assert 0 < Cost(planned).models[0].hours < before
    for cell in planned.all_cells[3:]:
        write_cell(planned, cell, rows=4, failed=0)
    assert Cost(planned).models[0].hours == 0


def test_estimate_is_that_of_the_measurement():
    """One sample of 300 tokens took 0.1986 s with its spectra (benchmarks/README.md)."""
    planned = plan(samples=1, controls=["correct"])
    cost = Cost(planned)
    cost._tokens["knowledge"] = (1, {"len100": 300, "len500": 300, "len1000": 300})
    assert cost.models[0].hours * 3600 / 3 == pytest.approx(0.1986, rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"extraction": {"tf32": True}},
        {"models": [{**LLAMA, "dtype": "bfloat16"}]},
        {"samples": 5},
        {"extraction": {"projections": ["q"]}},
    ],
)
def test_less_work_costs_less(change):
    assert Cost(plan(**change)).models[0].hours < Cost(plan()).models[0].hours


def test_a_model_of_unknown_size_has_no_estimate():
    cost = Cost(plan(models=[MODEL]))
    assert cost.models[0].hours is None
    assert "No estimate without `billions` and `layers`: m." in describe_cost(cost)


def test_the_paper_is_estimated_without_its_data(tmp_path, monkeypatch):
    study = load_study(ROOT / "config" / "paper.yaml", ROOT / "catalog")
    monkeypatch.chdir(tmp_path)
    cost = Cost(Plan(study))
    assert [model.missing for model in cost.models] == [56] * 10
    assert 10 < sum(model.hours for model in cost.models) < 200
    assert "Data that cannot be read yet, of 13 datasets" in describe_cost(cost)


def test_a_fault_of_a_model_is_not_one_of_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [{**MODEL, "name": n, "source": {"kind": "path", "path": f"no-{n}"}} for n in "ab"]
    cost = Cost(plan(models=models, datasets=["knowledge"]))
    text = describe_cost(cost)
    assert "Weights that cannot be read yet, of 2 models:" in text and "no-a" in text
    assert ("Data that" in text) == bool(cost.absent)
    cost = Cost(plan(models=models[:1]))
    assert "Weights that cannot be read yet, of 1 model:" in describe_cost(cost)


def test_command_prints_cells_and_jobs(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["plan", "--study", "config/paper.yaml"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "all models                560" in done.output
