"""GPU leases with made-up devices: never two jobs on one GPU, whatever dies."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layergrad import lease
from layergrad.errors import UserError
from tests.workflow.project import ENVIRONMENT, ROOT

# Locks its device for itself, so that an overlap is seen by other means than the lease.
JOB = """
import fcntl, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
held = [open(folder / f"device-{device}", "w") for device in devices]
for file in held:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (folder / f"overlap-{os.getpid()}").touch()
(folder / f"ran-{os.getpid()}").write_text(",".join(devices))
time.sleep(float(sys.argv[2]))
"""


def start(tmp_path, gpus: int = 1, seconds: float = 0.2, devices: str = "0,1"):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src"), "LAYERGRAD_GPUS": devices}
    environment["LAYERGRAD_GPU_LOCKS"] = str(tmp_path / "locks")
    command = [sys.executable, "-m", "layergrad", "lease", "--gpus", str(gpus), "--"]
    command += [sys.executable, "-c", JOB, str(tmp_path), str(seconds)]
    return subprocess.Popen(command, env=environment)


def test_no_two_jobs_share_a_gpu_under_kill(tmp_path):
    chance = random.Random(0)
    running, started = [], 0
    while started < 36 or running:
        if len(running) < 6 and started < 36:
            started += 1
            running.append(start(tmp_path, gpus=2 if started % 9 == 0 else 1))
        elif running and chance.random() < 0.3:
            os.kill(chance.choice(running).pid, signal.SIGKILL)
        time.sleep(0.05)
        running = [process for process in running if process.poll() is None]
    ran = [file.read_text() for file in tmp_path.glob("ran-*")]
    assert not list(tmp_path.glob("overlap-*"))
    assert {"0", "1"} <= set(ran)
    assert all(sorted(devices.split(",")) in (["0"], ["1"], ["0", "1"]) for devices in ran)


def test_a_job_gets_all_the_gpus_it_asks_for(tmp_path):
    assert start(tmp_path, gpus=2, seconds=0).wait() == 0
    assert [file.read_text() for file in tmp_path.glob("ran-*")] == ["0,1"]


def test_a_child_that_outlives_its_job_keeps_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERGRAD_GPU_LOCKS", str(tmp_path))
    folder = lease.lock_folder({"LAYERGRAD_GPU_LOCKS": str(tmp_path)})
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "src"), "LAYERGRAD_GPUS": "7"}
    environment["LAYERGRAD_GPU_LOCKS"] = str(tmp_path)
    script = f"sleep 2 & echo $! > {tmp_path}/child; wait"
    command = [sys.executable, "-m", "layergrad", "lease", "--", "bash", "-c", script]
    job = subprocess.Popen(command, env=environment)
    while not (tmp_path / "child").exists():
        time.sleep(0.05)
    job.kill()
    job.wait()
    with pytest.raises(UserError, match="no 1 free GPUs of 7"):
        lease.acquire(1, ["7"], folder, timeout=0)
    assert lease.acquire(1, ["7"], folder, timeout=30)  # the child ended, and nobody cleaned up


def test_a_device_named_twice_is_shared_by_two_jobs_not_three(tmp_path):
    taken = [lease.acquire(1, ["0", "0"], tmp_path, timeout=0) for _ in range(2)]
    assert [list(slot) for slot in taken] == [["0:0"], ["0:1"]]
    with pytest.raises(UserError, match="no 1 free"):
        lease.acquire(1, ["0", "0"], tmp_path, timeout=0)


def test_more_gpus_than_there_are_is_an_error_that_says_so(tmp_path):
    with pytest.raises(UserError, match=r"3 GPUs asked for, but this machine offers 2 \(0, 1\)"):
        lease.acquire(3, ["0", "1"], tmp_path)


def test_pool_is_what_slurm_gave_else_what_the_user_says(monkeypatch):
    slurm = {"SLURM_JOB_ID": "1", "LAYERGRAD_GPUS": "0,1,2"}
    assert lease.pool({**slurm, "CUDA_VISIBLE_DEVICES": "3"}) == ["3"]
    assert lease.pool(slurm) == []
    assert lease.pool({"LAYERGRAD_GPUS": "1, 2", "CUDA_VISIBLE_DEVICES": "0"}) == ["1", "2"]
    assert lease.pool({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    assert lease.pool({}) == []


UUIDS = {"0": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1": "GPU-893c1a2b-aaaa"}
SLICE = "MIG-GPU-8932f937/1/0"


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        (" 1 , 0 ", ["1", "0"]),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
        ("0,1,", ["0", "1"]),
        ("01", ["1"]),
        (UUIDS["1"], ["1"]),
        ("GPU-8932,1", ["0", "1"]),
        (SLICE, [SLICE]),
    ],
)
def test_the_pool_is_what_cuda_would_show(value, devices, monkeypatch):
    monkeypatch.setattr(lease, "_installed", lambda: UUIDS)
    assert lease.pool({"CUDA_VISIBLE_DEVICES": value}) == devices
    assert lease.pool({"LAYERGRAD_GPUS": value, "CUDA_VISIBLE_DEVICES": "9"}) == devices


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("0,0", "names a GPU twice"),
        (f"0,{UUIDS['0']}", "names a GPU twice"),
        ("2", r"2 is no GPU of this machine, which has 0 \(GPU-8932"),
        ("0,7", "7 is no GPU"),
        ("GPU-893", "GPU-893 fits several GPUs"),
        ("GPU-0000", "GPU-0000 is no GPU"),
        ("all", "'all' is no GPU; give indices"),
        ("0;1", "'0;1' is no GPU"),
        ("0 1", "'0 1' is no GPU"),
    ],
)
def test_a_pool_that_cuda_would_not_show_is_refused(value, fault, monkeypatch):
    monkeypatch.setattr(lease, "_installed", lambda: UUIDS)
    with pytest.raises(UserError, match=fault):
        lease.pool({"CUDA_VISIBLE_DEVICES": value})


def test_a_slurm_job_trusts_the_numbers_that_slurm_gave(monkeypatch):
    monkeypatch.setattr(lease, "_installed", lambda: UUIDS)
    assert lease.pool({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "6,7"}) == ["6", "7"]
    assert lease.pool({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == []
    with pytest.raises(UserError, match="'all' is no GPU"):
        lease.pool({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "all"})


def test_gpus_are_listed_by_nvidia_smi(tmp_path, monkeypatch):
    listing = "".join(f"{index}, {uuid}\n" for index, uuid in UUIDS.items())
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<END\n{listing}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert lease.pool({}) == ["0", "1"]
    assert lease.pool({"LAYERGRAD_GPUS": "0,0"}) == ["0", "0"]


def test_a_slice_can_be_leased_but_not_two_at_once(tmp_path):
    assert list(lease.acquire(1, [SLICE], tmp_path)) == [f"{SLICE}:0"]
    with pytest.raises(UserError, match="one MIG slice only"):
        lease.acquire(2, [SLICE, "MIG-1"], tmp_path)


def test_a_folder_of_locks_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="LAYERGRAD_GPU_LOCKS"):
        lease.lock_folder({"LAYERGRAD_GPU_LOCKS": str(tmp_path / "file")})


def test_without_a_gpu_the_job_runs_on_the_cpu(tmp_path):
    assert start(tmp_path, gpus=2, seconds=0, devices="").wait() == 0
    assert [file.read_text() for file in tmp_path.glob("ran-*")] == [""]


def test_a_study_runs_on_two_gpus_at_once(project):
    project.edit("projections: [q, v]", "projections: [q, k]")
    command = "snakemake spectra --cores 8 --resources gpu=2"
    snakemake = project.start(command, LAYERGRAD_GPUS="0,1")
    seen: dict[str, set[str]] = {}
    while snakemake.poll() is None:
        for process, words in jobs_of(project.folder):
            with contextlib.suppress(OSError):
                environment = Path("/proc", process, "environ").read_bytes().decode().split("\0")
                device = next(e for e in environment if e.startswith("CUDA_VISIBLE_DEVICES="))
                seen.setdefault(words[words.index("--model") + 1], set()).add(device[-1])
        time.sleep(0.05)
    output = snakemake.communicate()[0]
    assert snakemake.returncode == 0, output
    assert sorted(seen) == ["tiny-llama", "tiny-qwen"]
    assert set.union(*seen.values()) == {"0", "1"}


def jobs_of(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the processes of the spectra in a folder that hold their lease, with their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            measures = {"spectra", "--model"} <= set(words) and "lease" not in words
            if measures and (entry / "cwd").readlink() == folder:
                found.append((entry.name, words))
    return found
