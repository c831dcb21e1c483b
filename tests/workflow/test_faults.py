"""Faults: a clear message, finished work kept, and the next run completes with the same result."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.workflow.project import SNAKEMAKE, Project

# Without the report, which costs most and adds nothing to most faults.
STATISTICS = "snakemake statistics --cores 2 --resources gpu=2"
NEW_MODEL = ("seed: 2}", "seed: 33}")


def statistics(project: Project) -> dict[str, bytes]:
    """Return the files that STATISTICS makes; the audit, in the same folder, is no part of it."""
    files = project.files("data/statistics/*")
    return {name: content for name, content in files.items() if not name.endswith("audit.parquet")}


def results(project: Project) -> dict[str, bytes]:
    return project.files("reports/**/*") | project.files("data/statistics/*")


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> Project:
    """The study with another model, computed without any fault."""
    project = finished.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    project.edit(*NEW_MODEL)
    project.run(SNAKEMAKE)
    return project


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
    assert results(edited) == results(undisturbed)


def test_killed_snakemake(edited, undisturbed):
    snakemake = edited.start(STATISTICS)
    job = edited.process("layergrad", "spectra")
    os.kill(snakemake.pid, signal.SIGKILL)
    os.kill(job, signal.SIGKILL)
    snakemake.communicate(timeout=300)

    refused = edited.run(STATISTICS, status=1).output
    assert "--unlock" in refused
    edited.run("snakemake --unlock")
    jobs = edited.jobs(STATISTICS)
    assert "fetch" not in jobs and jobs["extract"] == 1
    assert statistics(edited) == statistics(undisturbed)


def test_killed_dvc(edited, undisturbed):
    dvc = edited.start("dvc repro")
    edited.process("layergrad", "spectra")
    for process in (dvc.pid, edited.process("snakemake"), edited.process("layergrad", "spectra")):
        os.kill(process, signal.SIGKILL)
    dvc.communicate(timeout=300)

    edited.run("snakemake --unlock")
    jobs = edited.jobs("dvc repro")
    assert "fetch" not in jobs and jobs["extract"] == 1
    assert results(edited) == results(undisturbed)
    assert edited.settled()


def test_two_runs_in_one_folder(edited, undisturbed):
    first = edited.start(STATISTICS)
    edited.process("layergrad", "spectra")
    second = edited.run(STATISTICS, status=1)
    assert "cannot be locked" in second.output and second.jobs == {}
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert statistics(edited) == statistics(undisturbed)


def test_full_disk(edited, undisturbed):
    edited.run("snakemake --until fetch preflight build --cores 2")
    # A limit on the size of files, for the jobs alone: each rule's shell reads this first.
    (edited.folder / "limit.sh").write_text("ulimit -f 2\n")
    limited = edited.run("BASH_ENV=limit.sh snakemake spectra --cores 2", status=1)
    assert "could not be written: File too large" in limited.output
    assert "Traceback" not in limited.output
    assert not list(edited.folder.glob("data/spectra/**/*.tmp"))
    assert edited.jobs(STATISTICS)["extract"] == 1
    assert statistics(edited) == statistics(undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_damaged_spectra(project, damage):
    before = statistics(project)
    cell = next(project.folder.glob("data/spectra/tiny-qwen/sums/none.correct.??????????.parquet"))
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
    refused = project.run(STATISTICS, status=1).output
    assert name in refused and "delete both" in refused and "Traceback" not in refused
    index = next(project.folder.glob("data/spectra/tiny-qwen/sums.*.json"))
    cell.unlink()
    index.unlink()
    jobs = project.jobs(STATISTICS)
    assert jobs["extract"] == 1 and jobs["aggregate"] == 1
    assert statistics(project) == before


def test_damaged_model(project):
    weights = next(project.folder.glob("data/models/tiny-llama.*/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    project.edit("[none]", "[none, simplified]")
    refused = project.run(STATISTICS, status=1).output
    assert str(weights.relative_to(project.folder)) in refused and "Traceback" not in refused

    project.run("rm -r data/models/tiny-llama.*")
    assert project.jobs(STATISTICS)["extract"] == 1  # the other model's was done before


def test_hub_that_never_answers(edited):
    edited.edit(
        "source: {kind: random, architecture: qwen2, seed: 33}",
        "source: {kind: hub, id: nobody/nothing, revision: main}",
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = edited.run(
            "snakemake --until fetch --cores 2",
            status=1,
            HF_ENDPOINT=hub,
            HF_HUB_OFFLINE="0",
            HF_HUB_ETAG_TIMEOUT="1",
            HF_HUB_DOWNLOAD_TIMEOUT="1",
            HF_HOME=str(edited.folder / "hub"),
        )
    assert "nobody/nothing" in done.output and "Traceback" not in done.output


def test_weights_that_are_not_numbers(edited):
    edited.run("snakemake --until fetch --cores 2")
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
    done = edited.run(STATISTICS, status=1)
    assert "model.layers.1.mlp.up_proj.weight is not finite" in done.output
    assert "Traceback" not in done.output


def test_failed_samples_are_tried_again_when_asked(project):
    before = results(project)
    # a study as a small GPU leaves it: one sample of one cell did not fit
    project.run(
        "rm -r data/pairs data/statistics data/manifest.json reports/*.html reports/figures"
    )
    project.run("python -c '" + LOSE_A_SAMPLE + "'")
    project.run(SNAKEMAKE)
    assert results(project) != before
    assert project.jobs(SNAKEMAKE) == {}
    told = project.run("layergrad explain data/manifest.json").output
    assert "2 samples measured, 1 failed" in told and "; current" in told

    assert "no sample" in project.run("layergrad retry --reason too_long").output
    told = project.run("layergrad retry --reason out_of_memory").output
    assert "tiny-qwen/sums none.correct: 1 out_of_memory" in told
    jobs = project.jobs(SNAKEMAKE)
    assert (jobs["extract"], jobs["aggregate"], jobs["manifest"], jobs["page"]) == (1, 1, 1, 1)
    (index,) = project.files("data/spectra/tiny-qwen/sums.*.json").values()
    run = json.loads(index)["provenance"]
    assert (run["measured"], run["reused"]) == (1, 2)
    assert results(project) == before
    project.run("layergrad verify --checksums")


LOSE_A_SAMPLE = """
import glob, polars as pl
from layergrad.provenance import digest, read_json, read_provenance, write_json
from layergrad.tables import FAILURES, SPECTRA, read_table, write_table
(index,) = glob.glob("data/spectra/tiny-qwen/sums.*.json")
record = read_json(index)
cell = record["cells"][0]
table = read_table(cell["spectra"], SPECTRA)
lost = pl.col("row") == table["row"].min()
names = list(FAILURES.schema)[:-2]
failed = table.filter(lost).select(names).unique().with_columns(
    reason=pl.lit("out_of_memory"), detail=pl.lit("did not fit"))
provenance = read_provenance(cell["spectra"])
write_table(table.filter(~lost), SPECTRA, cell["spectra"], provenance)
write_table(failed, FAILURES, cell["failures"], provenance)
cell.update(sha256=digest(cell["spectra"], "sha256"), samples=2, failed=1,
            failures_sha256=digest(cell["failures"], "sha256"))
write_json(record, index)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_results_that_may_not_be_written(edited, undisturbed):
    store = edited.folder / "data/spectra"
    subprocess.run(["mount", "--bind", store, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
        done = edited.run(STATISTICS, status=1)
    finally:
        subprocess.run(["umount", store], check=True)
    assert "data/spectra/tiny-qwen may not be written" in done.output
    assert "mounted read-only" in done.output and "Traceback" not in done.output
    assert done.jobs == {}
    assert statistics(edited) != statistics(undisturbed)
    edited.run(STATISTICS)
    assert statistics(edited) == statistics(undisturbed)


def test_clock_that_went_back(edited, undisturbed):
    ahead = time.time() + 86400
    for folder in ("data", "reports"):
        for file in (edited.folder / folder).rglob("*"):
            os.utime(file, (ahead, ahead))
    jobs = edited.jobs(STATISTICS)
    assert jobs["extract"] == 1 and jobs["aggregate"] == 1
    assert statistics(edited) == statistics(undisturbed)
