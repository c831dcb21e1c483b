"""Faults: a clear message, finished work kept, and the next run completes with the same result."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.workflow.project import SNAKEMAKE, Project

NEW_MODEL = ("seed: 2}", "seed: 33}")


def results(project: Project) -> dict[str, bytes]:
    return project.files("reports/**/*") | project.files("data/statistics/*")


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> dict[str, bytes]:
    """The results of the study with another model, computed without any fault."""
    project = finished.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    project.edit(*NEW_MODEL)
    project.run(SNAKEMAKE)
    return results(project)


@pytest.fixture
def edited(project) -> Project:
    """A finished study of which one model was changed since."""
    project.edit(*NEW_MODEL)
    return project


def test_killed_job(edited, undisturbed):
    snakemake = edited.start(SNAKEMAKE)
    os.kill(edited.process("layergrad", "spectra"), signal.SIGKILL)
    output, _ = snakemake.communicate(timeout=300)
    assert snakemake.returncode == 1
    assert "Error in rule extract" in output

    jobs = edited.jobs(SNAKEMAKE)
    assert "fetch" not in jobs and jobs["extract"] == 1
    assert results(edited) == undisturbed


def test_killed_snakemake(edited, undisturbed):
    snakemake = edited.start(SNAKEMAKE)
    job = edited.process("layergrad", "spectra")
    os.kill(snakemake.pid, signal.SIGKILL)
    os.kill(job, signal.SIGKILL)
    snakemake.communicate(timeout=300)

    refused = edited.run(SNAKEMAKE, status=1).output
    assert "--unlock" in refused
    edited.run("snakemake --unlock")
    jobs = edited.jobs(SNAKEMAKE)
    assert "fetch" not in jobs and jobs["extract"] == 1
    assert results(edited) == undisturbed


def test_killed_dvc(edited, undisturbed):
    dvc = edited.start("dvc repro")
    edited.process("layergrad", "spectra")
    for process in (dvc.pid, edited.process("snakemake"), edited.process("layergrad", "spectra")):
        os.kill(process, signal.SIGKILL)
    dvc.communicate(timeout=300)

    edited.run("snakemake --unlock")
    jobs = edited.jobs("dvc repro")
    assert "fetch" not in jobs and jobs["extract"] == 1
    assert results(edited) == undisturbed
    assert edited.settled()


def test_two_runs_in_one_folder(edited, undisturbed):
    first = edited.start(SNAKEMAKE)
    edited.process("layergrad", "spectra")
    second = edited.run(SNAKEMAKE, status=1)
    assert "cannot be locked" in second.output and second.jobs == {}
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert results(edited) == undisturbed


def test_full_disk(edited, undisturbed):
    edited.run(f"{SNAKEMAKE} --until fetch build")
    limited = edited.run(f"ulimit -f 2; {SNAKEMAKE} spectra", status=1)
    assert "could not be written: File too large" in limited.output
    assert "Traceback" not in limited.output
    assert not list(edited.folder.glob("data/spectra/**/*.tmp"))

    edited.run(SNAKEMAKE)
    assert results(edited) == undisturbed


@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_damaged_spectra(project, damage):
    before = results(project)
    cell = next(project.folder.glob("data/spectra/tiny-qwen/sums/simplified.irrelevant.*.parquet"))
    content = bytearray(cell.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 1
    cell.unlink()  # DVC's cache may share the file
    cell.write_bytes(content)
    project.run("rm -r data/pairs/tiny-qwen data/statistics")

    name = str(cell.relative_to(project.folder))
    assert name in project.run("layergrad verify --checksums", status=1).output
    refused = project.run(SNAKEMAKE, status=1).output
    assert name in refused and "delete both" in refused and "Traceback" not in refused
    index = next(project.folder.glob("data/spectra/tiny-qwen/sums.*.json"))
    cell.unlink()
    index.unlink()
    jobs = project.jobs(SNAKEMAKE)
    assert jobs["extract"] == 1 and jobs["aggregate"] == 1
    assert results(project) == before


def test_damaged_model(project):
    weights = next(project.folder.glob("data/models/tiny-llama.*/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    project.edit("[none, simplified]", "[none, simplified, detailed]")
    refused = project.run(SNAKEMAKE, status=1).output
    assert str(weights.relative_to(project.folder)) in refused and "Traceback" not in refused

    project.run("rm -r data/models/tiny-llama.*")
    assert project.jobs(SNAKEMAKE)["extract"] == 1  # the other model's was done before


def test_hub_that_never_answers(edited):
    edited.edit(
        "source: {kind: random, architecture: qwen2, seed: 33}",
        "source: {kind: hub, id: nobody/nothing, revision: main}",
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = edited.run(
            f"{SNAKEMAKE} --until fetch",
            status=1,
            HF_ENDPOINT=hub,
            HF_HUB_OFFLINE="0",
            HF_HUB_ETAG_TIMEOUT="1",
            HF_HUB_DOWNLOAD_TIMEOUT="1",
            HF_HOME=str(edited.folder / "hub"),
        )
    assert "nobody/nothing" in done.output and "Traceback" not in done.output


def test_weights_that_are_not_numbers(edited):
    edited.run(f"{SNAKEMAKE} --until fetch")
    folder = next(edited.folder.glob("data/models/tiny-qwen.*/"))
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file;"
        "w = load_file(sys.argv[1]); w['model.layers.1.mlp.up_proj.weight'][0, 0] = float('nan');"
        "save_file(w, sys.argv[1], metadata={'format': 'pt'})"
    )
    edited.run(f'cp -r {folder} broken && python -c "{script}" broken/model.safetensors')
    edited.edit(
        "source: {kind: random, architecture: qwen2, seed: 33}",
        "source: {kind: path, path: broken}",
    )
    done = edited.run(SNAKEMAKE, status=None)
    assert "Traceback" not in done.output
    failures = [
        json.loads(content)
        for name, content in edited.files("data/spectra/tiny-qwen/*.json").items()
    ]
    cells = [cell for index in failures for cell in index["cells"] if cell["failed"]]
    assert done.status == 1 or len(cells) == 4


def test_results_that_may_not_be_written(edited, undisturbed):
    store = edited.folder / "data/spectra"
    subprocess.run(["mount", "--bind", store, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
        done = edited.run(SNAKEMAKE, status=1)
    finally:
        subprocess.run(["umount", store], check=True)
    assert "Read-only file system" in done.output
    assert results(edited) != undisturbed
    edited.run(SNAKEMAKE)
    assert results(edited) == undisturbed


def test_clock_that_went_back(edited, undisturbed):
    ahead = time.time() + 86400
    for folder in ("data", "reports"):
        for file in (edited.folder / folder).rglob("*"):
            os.utime(file, (ahead, ahead))
    jobs = edited.jobs(SNAKEMAKE)
    assert jobs["extract"] == 1 and jobs["aggregate"] == 1
    assert results(edited) == undisturbed
