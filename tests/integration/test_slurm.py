"""The workflow on a real Slurm that runs here, with made-up GPUs."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.workflow.project import ENVIRONMENT, new_project

CLUSTER = Path(__file__).parent / "slurm.sh"
RUN = (
    "snakemake --profile profiles/slurm --local-cores 2 --latency-wait 10"
    " --slurm-init-seconds-before-status-checks 5"
)

pytestmark = pytest.mark.skipif(
    not shutil.which("slurmctld", path="/usr/sbin:/usr/bin") or os.getuid() != 0,
    reason="needs root and Slurm's Debian packages (.ci/run installs them)",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "up", folder], check=True, timeout=120)
    yield
    subprocess.run([CLUSTER, "down", folder], check=True, timeout=120)


def jobs() -> list[dict[str, str]]:
    """Return what Slurm knows of its jobs: also of those that ended a short while ago."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--details", "--oneliner"], capture_output=True, text=True
    ).stdout
    lines = [line for line in shown.splitlines() if line.startswith("JobId=")]
    return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines]


def running(rule: str) -> list[dict[str, str]]:
    return [j for j in jobs() if j["JobState"] == "RUNNING" and rule in j.get("Comment", "")]


class Watcher(threading.Thread):
    """Looks at the queue while a study runs; kills the first job of the spectra once it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.places: list[list[tuple[str, str]]] = []
        self.killed: str | None = None
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.3):
            now = running("extract")
            self.places.append([(j["Nodes"], j.get("GRES", "")) for j in now if "Nodes" in j])
            if len(now) > 1 and self.killed is None:
                self.killed = now[0]["JobId"]
                subprocess.run(["scancel", self.killed], check=True)


def test_study_on_two_gpus_with_a_job_that_is_killed(slurm, tmp_path):
    project = new_project(tmp_path)
    watcher = Watcher()
    watcher.start()
    done = project.run(RUN)
    watcher.done.set()
    watcher.join()

    assert done.jobs["extract"] == 2
    assert (project.folder / "reports/index.html").exists()
    assert "Nothing to be done" in project.run("snakemake -n").output

    together = [places for places in watcher.places if len(places) > 1]
    assert together, "the two jobs of the spectra never ran at once"
    assert all(len(set(places)) == len(places) for places in together)
    assert all("gpu:1(IDX:" in gres for places in together for _, gres in places)

    submitted = Counter(job["Comment"].split("_")[1] for job in jobs())
    # One submit a job, the killed one once more; the statistics of both pairs are one job.
    assert submitted == {"preflight": 2, "extract": 3, "statistics": 1}
    memory = sorted(job["MinMemoryNode"] for job in jobs() if "extract" in job["Comment"])
    assert memory == ["16000M", "8000M", "8000M"]  # asked for more when it was tried again


def test_interrupt_leaves_no_job_behind(slurm, tmp_path):
    project = new_project(tmp_path)
    project.edit("seed: 2}", "seed: 22}")
    known = {job["JobId"] for job in jobs()}
    snakemake = subprocess.Popen(
        RUN.split(), cwd=project.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not [j for j in running("extract") if j["JobId"] not in known]:
        assert time.monotonic() < deadline and snakemake.poll() is None
        time.sleep(0.3)
    snakemake.send_signal(signal.SIGINT)
    snakemake.wait(timeout=120)
    deadline = time.monotonic() + 60
    while left := [j for j in jobs() if j["JobState"] in ("RUNNING", "PENDING", "COMPLETING")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.3)
