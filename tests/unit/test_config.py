"""Bad configuration fails before the first job, with what is wrong, where, and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from layergrad.config import load_study, read_yaml
from layergrad.errors import UserError
from layergrad.provenance import content_hash

TINY = Path(__file__).parents[2] / "config" / "tiny.yaml"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["wrong"], 1, r"wrong: unknown key$"),
        (["statistics", "drawz"], 1, r"statistics.drawz: unknown key; did you mean 'draws'\?"),
        (["models", 0, "famly"], "x", r"unknown key; did you mean 'family'\?"),
        (["report", "metric"], "sigma1_ratio", "'sigma1_ratio' is not among statistics.metrics"),
        (["statistics", "claim_metric"], "sum_loss.nuclear_norm", "leave out 'sum_loss.'"),
        (["statistics", "seed"], -1, "greater than or equal to 0"),
        (["seed"], -1, "greater than or equal to 0"),
        (["samples"], True, "valid integer"),
        (["controls"], ["correct", "correct"], "listed twice: correct"),
        (["datasets", 0, "responses"], ["none", "none"], "listed twice: none"),
        (["extraction", "projections"], ["q", "q"], "listed twice: q"),
        (["models", 0], {"from": ["a"]}, r"`from` must be a name, got \['a'\]"),
    ],
)
def test_faults_are_named(tmp_path, place, value, message):
    study = yaml.safe_load(TINY.read_text())
    within = study
    for part in place[:-1]:
        within = within[part]
    within[place[-1]] = value
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(UserError, match=rf"(?m){message}"):
        load_study(file)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        read_yaml(tmp_path / "bytes.yaml")


@pytest.mark.skipif(not shutil.which("dvc"), reason="no dvc")
def test_a_folder_that_is_not_here_is_known_by_its_pointer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "sub/a/y", "sub/x", "sub-a", "é b.txt"):
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", "model"]):
        subprocess.run(command, check=True, capture_output=True)
    here = content_hash("model")
    shutil.rmtree("model")
    assert content_hash("model") == here
