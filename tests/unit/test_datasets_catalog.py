"""Every entry of the catalogs is valid, and what the built-in ones build is pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from layergrad.config import DatasetSpec, ReasoningGymSource, resolve_study
from layergrad.datasets.build import build_dataset
from layergrad.plan import DATASET_VERSION
from layergrad.provenance import key
from tests.unit.test_datasets_build import MODEL

CATALOG = Path(__file__).parents[2] / "catalog"
DATASETS = yaml.safe_load((CATALOG / "datasets.yaml").read_text())
MODELS = yaml.safe_load((CATALOG / "models.yaml").read_text())


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_entries_are_valid_and_described(name, tmp_path, monkeypatch):
    (tmp_path / "data" / "raw" / "comve").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = DatasetSpec(name=name, **DATASETS[name])
    assert spec.title
    assert spec.license
    assert spec.group in {"math", "commonsense", "knowledge"}
    assert (spec.task == "knowledge") == (spec.group == "knowledge")


@pytest.mark.parametrize("name", MODELS)
def test_model_entries_are_valid(name):
    study = resolve_study({"models": [name], "datasets": ["knowledge"]}, CATALOG)
    assert study.models[0].title
    assert study.models[0].layers


def test_generated_sources_state_their_version():
    generated = [e["source"] for e in DATASETS.values() if e["source"]["kind"] == "reasoning_gym"]
    assert generated
    assert all(ReasoningGymSource(**source).version for source in generated)


# What DATASET_VERSION stands for: a change of these means that code builds other samples.
BUILT = {
    1: {"responses": "9e544da4ba", "controls": "df0650843b"},
    2: {"responses": "9e544da4ba", "controls": "df0650843b"},  # cells of files are read otherwise
}


def test_other_samples_need_another_version():
    controls = ["correct", "irrelevant", "mosaic_paper", "other_response", "wrong_answer"]
    study = resolve_study(
        {
            "models": [MODEL],
            "datasets": ["gsm_symbolic"],
            "samples": 5,
            "controls": [*controls, "shuffled_steps"],
        },
        CATALOG,
    )
    frame, _ = build_dataset(study, "gsm_symbolic")
    correct = frame.filter(frame["control"] == "correct")
    built = {
        "responses": key(correct["sample_id"].to_list(), correct["response_text"].to_list()),
        "controls": key(frame["sample_id"].to_list(), frame["response_text"].to_list()),
    }
    assert built == BUILT[DATASET_VERSION], (
        "the code builds other samples than before: raise DATASET_VERSION in plan.py and add what "
        f"it builds now to BUILT here: {built}"
    )


def test_catalogs_name_no_branch_where_a_commit_is_known():
    pinned = [e["source"]["revision"] for e in DATASETS.values() if e["source"].get("revision")]
    assert sum(bool(re.fullmatch("[0-9a-f]{40}", revision)) for revision in pinned) >= 7
