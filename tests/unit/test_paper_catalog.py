"""The paper's study: its catalog entries fit the authors' repository, imported by DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from layergrad.config import load_study
from layergrad.datasets.build import build_dataset
from layergrad.errors import UserError
from layergrad.plan import Plan, source_files

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "config" / "paper.yaml"


@pytest.fixture
def study():
    return load_study(PAPER, ROOT / "catalog")


def test_study_has_every_cell_of_the_paper(study):
    cells = Plan(study).all_cells
    groups = Counter(study.dataset(cell.dataset).group for cell in cells)
    # ten models; six sets of three responses, three of two, four of one; right and wrong
    assert groups == {"math": 240, "commonsense": 240, "knowledge": 80}
    assert len(study.models) == 10
    assert len(study.datasets) == 13
    assert study.samples == 500


def test_models_are_pinned_and_paired(study):
    for model in study.models:
        assert model.source.kind == "hub"
        assert len(model.source.revision) == 40
        assert model.protocol == "paper"
        assert model.chat == (model.tuning == "instruct")
    families = Counter(model.family for model in study.models)
    assert set(families.values()) == {2}


def test_all_56_files_are_mapped_once(study):
    files = [file for dataset in study.datasets for file in source_files(dataset)]
    assert len(files) == len(set(files)) == 56
    folders = Counter(Path(file).parent.name for file in files)
    assert folders["cot_500"] == folders["cot_500_wrong_answer_shuffle"] == 18


def test_missing_files_are_named_with_the_way_to_get_them(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"aqua: .*no such file; get it with `dvc import --rev"):
        Plan(study).dataset_key("aqua")


def write_repository(folder, study):
    """Write files of made-up rows, laid out as the authors' repository is."""
    for dataset in study.datasets:
        source = dataset.source
        for control, files in {"correct": source.responses, **source.controls}.items():
            for response, file in files.items():
                rows = [row(i, response, control) for i in range(source.checks["rows"])]
                path = folder / Path(file).relative_to("data/raw/paper")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(rows))


def row(i, response, control):
    answer = str(i if control == "correct" else i + 1)
    text = f"Thing {i} of {control}. Then {response}.\nThe final answer is {answer}"
    return {
        "instruction": f"Question {i}?",
        "input": "",
        "output": answer if response == "none" else text,
    }


@pytest.mark.skipif(not (shutil.which("dvc") or (ROOT / ".venv/bin/dvc").exists()), reason="no dvc")
def test_datasets_are_built_from_an_imported_repository(study, tmp_path, monkeypatch):
    upstream, work = tmp_path / "upstream", tmp_path / "work"
    write_repository(upstream, study)
    (work / "data" / "raw" / "paper").mkdir(parents=True)
    dvc = shutil.which("dvc") or str(ROOT / ".venv/bin/dvc")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for folder in (upstream, work):
        run(folder, "git", "init", "-q")
    run(upstream, "git", "add", ".")
    run(upstream, "git", *who, "commit", "-q", "-m", "Data")
    commit = run(upstream, "git", "rev-parse", "HEAD").strip()
    run(work, dvc, "init", "-q")
    # the command of the catalog, with this repository and commit for the authors'
    command = study.datasets[0].source.obtain.split()
    command[0] = dvc
    command[command.index("--rev") + 1] = commit
    command[-2] = str(upstream)
    run(work, *command)

    monkeypatch.chdir(work)
    plan = Plan(study)
    assert len({plan.dataset_key(dataset.name) for dataset in study.datasets}) == 13
    for name in ("aqua", "math_geometry", "wiki_unpopular"):
        frame, facts = build_dataset(study, name)
        spec = study.dataset(name)
        rows = spec.source.checks["rows"]
        assert facts["samples"] == rows
        assert frame.height == rows * len(spec.responses) * 2


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
