"""The paper's study, planned from files of made-up rows laid out as its authors' are."""

import re
import resource
from collections import Counter

import pytest

from layergrad.config import load_study
from layergrad.plan import Plan
from tests.unit.test_paper_catalog import write_repository
from tests.workflow.project import ROOT, Project, new_project


@pytest.fixture
def paper(tmp_path) -> Project:
    project = new_project(tmp_path / "project")
    study = load_study(ROOT / "config/paper.yaml", ROOT / "catalog")
    write_repository(project.folder / "data/raw/paper", study)
    return project


def test_every_cell_is_planned_in_seconds(paper, monkeypatch):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    dry = paper.run("snakemake -n --configfile config/paper.yaml").output
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 30  # seconds; the machine may be shared

    jobs = dict(re.findall(r"^(\w+) +(\d+)$", dry, re.MULTILINE))
    assert (jobs["fetch"], jobs["preflight"], jobs["build"]) == ("10", "10", "13")
    assert jobs["extract"] == jobs["aggregate"] == "130"

    monkeypatch.chdir(paper.folder)
    plan = Plan(load_study("config/paper.yaml"))
    pairs = re.findall(r"Measure (\S+) on (\S+)", dry)
    assert sorted(pairs) == sorted(plan.pairs)  # those of config.yaml are not among them
    cells = [cell for pair in pairs for cell in plan.cells(*pair)]
    groups = Counter(plan.study.dataset(cell.dataset).group for cell in cells)
    assert groups == {"math": 240, "commonsense": 240, "knowledge": 80}


def test_missing_files_are_named_with_the_way_to_get_them(paper):
    (paper.folder / "data/raw/paper/data/cot_500/creak_train_no_cot.json").unlink()
    refused = paper.run("snakemake -n --configfile config/paper.yaml", status=1).output
    assert "creak_train_no_cot.json: no such file; get it with `dvc import" in refused
    assert "Traceback" not in refused
