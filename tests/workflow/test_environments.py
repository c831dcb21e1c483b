"""The environments of the phases have the pins of the lock, and what their code imports."""

import ast
import re
import sys

import pytest
import yaml

from tests.workflow.project import ROOT

PHASES = ["datasets", "spectra", "statistics", "report"]
AUDIT = ["datasets/answers.py", "datasets/audit.py", "datasets/pool.py", "datasets/sentences.py"]
CODE = {
    "datasets": ["datasets"],
    "spectra": ["models", "spectra", *AUDIT],
    "statistics": ["statistics"],
    "report": ["report", *AUDIT],
}
# Where a module's name is not its package's.
PACKAGE = {
    "yaml": "pyyaml",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def pinned(phase: str) -> dict[str, str]:
    environment = yaml.safe_load((ROOT / f"envs/{phase}.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return {normal(name): version for name, version in (pin.split("==") for pin in pip)}


def imported(place: str) -> set[str]:
    """Return the packages that a file or folder imports, Python's and layergrad's own left out."""
    path = ROOT / "src/layergrad" / place
    names = set()
    for file in [path] if path.is_file() else path.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    own = sys.stdlib_module_names | {"layergrad"}
    return {normal(PACKAGE.get(name, name)) for name in names - own}


def test_the_lock_is_exact_and_names_no_machine():
    text = (ROOT / "requirements.lock").read_text()
    assert locked()["torch"] == "2.13.0"
    assert not re.search(r"://|^-|@|\+cpu|\+cu", text, re.MULTILINE)


@pytest.mark.parametrize("phase", PHASES)
def test_pins_equal_those_of_the_lock(phase):
    pins = pinned(phase)
    assert pins == {name: locked()[name] for name in pins}


@pytest.mark.parametrize("phase", PHASES)
def test_an_environment_has_what_its_code_imports(phase):
    needed = set().union(*map(imported, CODE[phase]))
    assert needed <= pinned(phase).keys()


@pytest.mark.parametrize("phase", ["datasets", "statistics", "report"])
def test_only_spectra_need_torch(phase):
    assert "torch" not in pinned(phase)


def test_each_rule_names_the_environment_of_its_phase():
    for phase in PHASES:
        rules = (ROOT / f"rules/{phase}.smk").read_text()
        assert f"../envs/{phase}.yaml" in rules
