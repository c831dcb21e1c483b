"""The workflow in other locales, folders and environments than those it was made in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.project import SNAKEMAKE, Project

STATISTICS = SNAKEMAKE.replace("snakemake", "snakemake statistics")

# Commands whose output is full of characters that Latin-1 does not have.
TALKATIVE = (
    "layergrad audit --study config.yaml",
    "layergrad overview",
    "layergrad plan",
    "layergrad explain reports/index.html",
    "layergrad figures --study config.yaml",
)
METRIC = '''
import grouplib


def half(spectrum):
    """Half of sum(s)."""
    return spectrum.list.sum() * grouplib.half
'''
RIGHTS = ("dac_override", "dac_read_search", "fowner")


@pytest.fixture(scope="session")
def latin1(tmp_path_factory) -> dict[str, str]:
    """The environment of a Latin-1 locale, built here."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is missing")
    folder = tmp_path_factory.mktemp("locales")
    name = "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / name)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("localedef cannot build a Latin-1 locale: its sources are missing")
    return {"LOCPATH": str(folder), "LC_ALL": name}


@pytest.fixture(params=["latin1", "C", "C without coercion"])
def locale_(request) -> dict[str, str]:
    if request.param == "latin1":
        return request.getfixturevalue("latin1")
    ascii_ = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    return {"LC_ALL": "C", **(ascii_ if "without" in request.param else {})}


def test_no_command_fails_for_the_characters_it_prints(project, locale_):
    for command in TALKATIVE:
        for way in ("| cat", "> told.log"):
            project.run(f"set -o pipefail; {command} {way}", **locale_)


def test_the_workflow_runs_in_any_locale_on_files_of_any_name(project, locale_):
    raw = project.folder / "données ∇"
    raw.mkdir()
    (raw / "é.jsonl").write_text(
        '{"instruction": "Wie groß ist ∇?", "output": "12"}\n' * 3, encoding="utf-8"
    )
    text = (project.folder / "config.yaml").read_text(encoding="utf-8")
    source = "source: {kind: reasoning_gym, generator: gsm_symbolic, rows: 20}"
    assert text.count(source) == 1
    text = text.replace(source, 'source: {kind: files, responses: {none: "données ∇/é.jsonl"}}')
    text = text.replace("title: A tiny study", "title: Une étude ∇")
    (project.folder / "config.yaml").write_text(text, encoding="utf-8")
    assert "Traceback" not in project.run(SNAKEMAKE, **locale_).output
    page = (project.folder / "reports/index.html").read_text(encoding="utf-8")
    assert "<title>Une étude ∇</title>" in page
    project.run("layergrad verify", **locale_)
    assert "données ∇/é.jsonl" in project.run("layergrad explain reports/index.html").output


def test_a_metric_may_import_what_a_module_system_offers(project):
    (project.folder / "lib").mkdir()
    (project.folder / "lib/grouplib.py").write_text("half = 0.5\n", encoding="utf-8")
    (project.folder / "examples/half.py").write_text(METRIC, encoding="utf-8")
    project.edit("metrics: [nuclear_norm]", 'metrics: [nuclear_norm, "examples/half.py:half"]')
    paths = os.pathsep.join(["src", str(project.folder / "lib")])
    jobs = project.jobs(STATISTICS, PYTHONPATH=paths)
    assert jobs["aggregate"] == 2


@pytest.mark.parametrize("own_catalog", [False, True], ids=["shared catalog", "own catalog"])
@pytest.mark.parametrize("way", ["--directory STUDY", "-s PROJECT/Snakefile"])
def test_a_study_in_a_folder_of_its_own(project, tmp_path, way, own_catalog):
    study = tmp_path / "a study of mine, né ∇"
    study.mkdir()
    for name in ("data", "config.yaml"):
        shutil.move(project.folder / name, study / name)
    if own_catalog:
        shutil.copytree(project.folder / "catalog", study / "catalog")
    (study / "reports/captions").mkdir(parents=True)
    (study / "reports/captions/curves.md.j2").write_text("Words of mine.\n", encoding="utf-8")
    here = project if "--directory" in way else Project(study)
    way = way.replace("STUDY", f"'{study}'").replace("PROJECT", f"'{project.folder}'")
    jobs = here.jobs(f"{SNAKEMAKE} {way}", PYTHONPATH="")
    assert jobs["page"] == 1 and "extract" not in jobs
    page = (study / "reports/index.html").read_text(encoding="utf-8")
    assert "Words of mine." in page and "How to read it" in page
    assert "Nothing to be done" in here.run(f"snakemake -n {way}", PYTHONPATH="").output


def test_a_name_without_a_catalog_is_told_so(tmp_path):
    (tmp_path / "cat.yaml").write_text(
        "models: [smollm2-135m-instruct]\ndatasets: [gsm_symbolic]\n", encoding="utf-8"
    )
    code = str(Path(__file__).parents[2] / "src")
    done = Project(tmp_path).run("layergrad plan --study cat.yaml", status=1, PYTHONPATH=code)
    assert "there is no catalog here" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("snakemake -n", 0, ""),
        (STATISTICS, 1, "umask 002"),
        ("layergrad plan", 0, "cells"),
    ],
)
def test_state_of_another_user(project, command, status, told):
    project.edit("draws: 100", "draws: 200")
    for folder in (".layergrad", ".layergrad/studies"):
        (project.folder / folder).chmod(0o555)
    done = project.run(f"{unprivileged()} {command}", status=status)
    assert told in done.output and "Traceback" not in done.output


def test_a_folder_that_cannot_be_written(project):
    for path in [project.folder, *project.folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555)
    try:
        done = project.run(f"{unprivileged()} snakemake -n", status=1)
        assert "may not be written" in done.output and "Traceback" not in done.output
        for command in ("plan", "overview", "verify", "explain reports/index.html"):
            project.run(f"{unprivileged()} layergrad {command}", HOME="/nonexistent")
    finally:
        for path in [project.folder, *project.folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def unprivileged() -> str:
    """Return what to put before a command so that permissions hold for it, if root runs this."""
    if os.getuid() != 0:
        return ""
    if shutil.which("setpriv") is None:
        pytest.skip("root runs this, and setpriv is missing")
    without = ",".join(f"-{right}" for right in RIGHTS)
    return f"setpriv --bounding-set={without} --inh-caps={without}"


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("layergrad plan | head -1; exit ${PIPESTATUS[1]}", 0, "cells"),
        ("layergrad overview | true", 0, ""),
        ("layergrad plan > /dev/full", 1, "layergrad: the output: No space left on device"),
        ("layergrad plan >&-", 0, ""),
        ("layergrad plan 2>&-", 0, "cells"),
        ("COLUMNS=0 layergrad overview", 0, "samples measured"),
        ("NO_COLOR=1 TERM=dumb TZ=Pacific/Kiritimati LC_NUMERIC=de_DE layergrad overview", 0, ""),
        ("TMPDIR=/nonexistent layergrad audit --study config.yaml", 0, ""),
        ("env -u HOME layergrad plan", 0, "cells"),
    ],
)
def test_output_that_cannot_be_written_and_odd_settings(project, command, status, told):
    done = project.run(command, status=status)
    assert told in done.output
    assert "Traceback" not in done.output and "Exception ignored" not in done.output


def test_another_python_in_the_path(project, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    project.edit("draws: 100", "draws: 200")
    snakemake = f"{sys.executable} -m {STATISTICS}"
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    assert project.jobs(snakemake, PATH=path)["aggregate"] == 2
