"""A copy of this project with the tiny study, and what a command really ran in it."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from layergrad.config import load_study
from layergrad.figures import figures

ROOT = Path(__file__).parents[2]
SNAKEMAKE = "snakemake --cores 2 --resources gpu=2"
_SHOWN = [figure.pairs for figure in figures(load_study(ROOT / "tests/workflow/study.yaml"))]
PAIR_FIGURES = sum(len(pairs) == 1 for pairs in _SHOWN) // 2  # of each of its two pairs
STUDY_FIGURES = sum(len(pairs) > 1 for pairs in _SHOWN)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": "src",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "SMK": "--cores 2 --resources gpu=2",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}


@dataclass
class Done:
    """What a command did: its status, all it said, and the jobs it finished, by rule."""

    status: int
    output: str

    @property
    def jobs(self) -> dict[str, int]:
        """Jobs that Snakemake finished, by rule, targets left out."""
        rules = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.output)
        return dict(Counter(rule for rule in rules if rule not in {"all", "statistics", "spectra"}))


class Project:
    """A working folder: a git repository with the project, its study and its results."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, command: str, status: int | None = 0, **environment: str) -> Done:
        """Run a shell command in the folder; any other status than `status` fails the test."""
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900,
        )
        done = Done(ran.returncode, ran.stdout)
        if status is not None:
            assert done.status == status, f"{command}\n{done.output[-6000:]}"
        return done

    def start(self, command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command, its own output to be read from the process that is returned."""
        return subprocess.Popen(
            command.split(),
            cwd=self.folder,
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def process(self, *words: str, timeout: float = 120) -> int:
        """Wait for a process of this folder whose command has these words; return its id."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes().decode().split("\0")
                    command = [Path(word).name for word in command]
                    here = (entry / "cwd").readlink() == self.folder
                    if here and all(word in command for word in words):
                        return int(entry.name)
            time.sleep(0.02)
        raise AssertionError(f"no process with {words} within {timeout} s")

    def jobs(self, command: str, **environment: str) -> dict[str, int]:
        """Run a command that succeeds and return the jobs it finished."""
        return self.run(command, **environment).jobs

    def edit(self, old: str, new: str, file: str = "config.yaml") -> None:
        """Replace a text that is there exactly once."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run(f"git add -A && git commit -qm '{message}'")

    def settled(self) -> bool:
        """Tell whether neither Snakemake nor DVC sees anything to do."""
        dry = self.run("snakemake -n").output
        status = self.run("dvc status").output
        return "Nothing to be done" in dry and "up to date" in status

    def copy(self, folder: Path) -> "Project":
        """Copy the folder with everything in it, results and caches too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def clone(self, folder: Path) -> "Project":
        """Clone the repository: what git knows, and nothing else."""
        self.run(f"git clone -q . {folder}")
        return Project(folder)

    def files(self, pattern: str) -> dict[str, bytes]:
        """Return the content of the files that match."""
        found = sorted(f for f in self.folder.glob(pattern) if f.is_file())
        return {str(f.relative_to(self.folder)): f.read_bytes() for f in found}


def new_project(folder: Path, study: str = "tests/workflow/study.yaml") -> Project:
    """Copy this project as it stands (uncommitted work too), with a study for its config.yaml."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.splitlines()):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy2(ROOT / study, folder / "config.yaml")
    project = Project(folder)
    project.run("git init -q -b main")
    return project
