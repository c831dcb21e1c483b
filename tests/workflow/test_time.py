"""What the workflow itself costs at the size of the paper's study: 560 cells, 521 figures."""

import json
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from layergrad.config import load_study
from layergrad.plan import PAIR_TABLES, STUDY_TABLES, Plan
from layergrad.provenance import PARQUET_KEY, sealed, write_json
from layergrad.results import AUDIT_FILE, write_manifest
from tests.workflow.project import new_project

REASONING = [f"reasoning-{i}" for i in range(6)]
MATH = [f"math-{i}" for i in range(3)]
FACTS = [f"facts-{i}" for i in range(4)]


def large_study(folder: Path) -> dict:
    """Write raw files and return a study of the paper's size: 10 models, 13 datasets, 560 cells."""
    models = [
        {
            "name": f"model-{i}",
            "source": {"kind": "random", "architecture": "llama", "seed": i},
            "family": f"family-{i // 2}",
            "tuning": ["base", "instruct"][i % 2],
        }
        for i in range(10)
    ]
    sets = {name: ["none", "simplified", "detailed"] for name in REASONING}
    sets |= {name: ["simplified", "detailed"] for name in MATH}
    sets |= {name: ["len500"] for name in FACTS}
    datasets = []
    for name, responses in sets.items():
        files = {}
        for control in ("correct", "irrelevant"):
            files[control] = {r: f"data/raw/{name}.{control}.{r}.json" for r in responses}
            for file in files[control].values():
                rows = [{"instruction": f"{i}", "input": "", "output": file} for i in range(500)]
                (folder / file).write_text(json.dumps(rows))
        source = {
            "kind": "files",
            "responses": files["correct"],
            "controls": {"irrelevant": files["irrelevant"]},
        }
        datasets.append({"name": name, "source": source, "responses": responses})
    return {"models": models, "datasets": datasets, "samples": 500}


def pretend_finished(plan: Plan) -> None:
    """Write small files in place of all results, with the right names and keys."""

    def touch(path: str, text: str = "x") -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    for pair in plan.pairs:
        cells = []
        for cell in plan.measured_cells(*pair):
            file = plan.cell_file(cell)
            touch(file), touch(f"{file}.failures")
            sums = {"sha256": "0" * 64, "failures_sha256": "0" * 64}
            cells.append({"spectra": file, "failures": f"{file}.failures", **sums})
        write_json({"key": plan.spectra_key(*pair), "cells": cells}, plan.spectra_file(*pair))
        for table in PAIR_TABLES:
            touch(plan.statistics_file(*pair, table))
        touch(plan.checksums_file(*pair))
    for table in STUDY_TABLES:
        file = Path("data/statistics", f"{table}.parquet")
        file.parent.mkdir(exist_ok=True)
        record = json.dumps({"key": plan.tables_key})
        pl.DataFrame({"x": [1]}).write_parquet(file, metadata={PARQUET_KEY: record})
    touch("data/statistics/sums.json", json.dumps({"key": plan.tables_key}))
    audit = json.dumps({"key": plan.audit_key, "parts": plan.audit_parts})
    pl.DataFrame({"x": [1]}).write_parquet(AUDIT_FILE, metadata={PARQUET_KEY: audit})
    write_manifest(plan, "data/manifest.json")
    for name in plan.figures:
        spec, *others = plan.figure_files(name)
        touch(spec, json.dumps({"usermeta": {"key": plan.figure_key(name)}}))
        for other in others:
            touch(other)
    touch("reports/metrics.json", json.dumps({"key": plan.measures_key}))
    touch("reports/index.html", sealed(f'<meta name="layergrad-key" content="{plan.page_key}">'))


@pytest.fixture
def large(tmp_path, monkeypatch):
    project = new_project(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(large_study(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return project


def test_planning_and_doing_nothing_are_quick(large):
    plan = Plan(load_study("config.yaml"))
    assert len(plan.all_cells) == 560

    began = time.monotonic()
    dry = large.run("snakemake -n -q").output
    planning = time.monotonic() - began
    assert "Nothing to be done" not in dry

    pretend_finished(plan)
    began = time.monotonic()
    idle = large.run("snakemake --cores 2")
    nothing = time.monotonic() - began
    assert "Nothing to be done" in idle.output
    print(f"planning 560 cells {planning:.1f} s, nothing to do {nothing:.1f} s")
    assert planning < 30 and nothing < 60


def test_a_cluster_gets_a_few_hundred_jobs(large):
    assert "jobs on a cluster, if nothing is there yet: 147" in large.run("layergrad plan").output
