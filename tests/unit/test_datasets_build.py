"""`layergrad build` writes every response under every control of the chosen samples."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from layergrad.cli import app
from layergrad.config import load_study, resolve_study
from layergrad.datasets.build import build_dataset
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import read_provenance
from layergrad.tables import DATASET, read_table

MODEL = {
    "name": "m",
    "source": {"kind": "random", "architecture": "llama"},
    "family": "f",
    "tuning": "base",
}


def study(**changes):
    raw = {"models": [MODEL], "datasets": ["gsm_symbolic"], "samples": 6, **changes}
    return resolve_study(raw)


def texts(frame, **where):
    for column, value in where.items():
        frame = frame.filter(pl.col(column) == value)
    return dict(zip(frame["sample_id"], frame["response_text"], strict=True))


@pytest.mark.parametrize("name", ["gsm_symbolic", "knowledge", "knowledge_popular"])
def test_every_response_and_control_has_the_same_samples(name):
    frame, facts = build_dataset(study(datasets=[name]), name)
    cells = frame.group_by("response", "control").agg(pl.col("sample_id").sort().alias("ids"))
    assert cells.height == 6
    ids = cells["ids"].to_list()
    assert all(cell == ids[0] for cell in ids)
    assert facts["samples"] == 6
    own = frame.filter(pl.col("control") == "correct")
    assert (
        own.group_by("sample_id").agg(pl.col("instruction").n_unique())["instruction"] == 1
    ).all()


def test_asking_for_more_changes_nothing_that_was_there():
    few, _ = build_dataset(study(samples=8), "gsm_symbolic")
    more, _ = build_dataset(study(samples=12), "gsm_symbolic")
    for response in ("none", "simplified", "detailed"):
        for control in ("correct", "irrelevant"):
            kept = texts(few, response=response, control=control)
            now = texts(more, response=response, control=control)
            assert len(kept) == 8
            assert len(now) == 12
            assert kept.items() <= now.items()


def test_two_builds_are_equal_and_another_seed_differs():
    one, _ = build_dataset(study(), "gsm_symbolic")
    two, _ = build_dataset(study(), "gsm_symbolic")
    other, _ = build_dataset(study(seed=1), "gsm_symbolic")
    assert one.equals(two)
    assert not one.equals(other)


def test_a_lone_answer_is_not_shuffled():
    spec = study(controls=["correct", "shuffled_steps"])
    frame, _ = build_dataset(spec, "gsm_symbolic")
    pairs = set(frame.select("response", "control").unique().iter_rows())
    assert pairs == set(spec.variants_of(spec.datasets[0]))
    assert ("none", "shuffled_steps") not in pairs


def test_command_writes_the_table_with_its_key(tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({"models": [MODEL], "datasets": ["knowledge"], "samples": 3}))
    output = tmp_path / "knowledge.parquet"
    planned = Plan(load_study(config)).dataset_key("knowledge")
    arguments = ["build", "--study", str(config), "--dataset", "knowledge", "--output", str(output)]
    done = CliRunner().invoke(app, [*arguments, "--key", planned], catch_exceptions=False)
    assert done.exit_code == 0
    assert "knowledge: 3 samples of 40 in the source" in done.output
    assert read_table(output, DATASET).height == 3 * 3 * 2
    assert read_provenance(output)["key"] == planned
    with pytest.raises(UserError, match="the caller expects key 0123456789"):
        CliRunner().invoke(app, [*arguments, "--key", "0123456789"], catch_exceptions=False)


def test_control_files_are_read_and_checked(tmp_path):
    rows = [{"instruction": f"q{i}?", "output": str(i)} for i in range(5)]
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    right.write_text(json.dumps(rows))
    wrong.write_text(json.dumps([{**row, "output": "99"} for row in rows]))
    dataset = {
        "name": "mine",
        "source": {
            "kind": "files",
            "responses": {"none": str(right)},
            "controls": {"irrelevant_paper": {"none": str(wrong)}},
        },
        "responses": ["none"],
        "controls": ["correct", "irrelevant_paper", "irrelevant"],
    }
    frame, _ = build_dataset(study(datasets=[dataset]), "mine")
    assert set(texts(frame, control="irrelevant_paper").values()) == {"99"}
    assert "99" not in texts(frame, control="irrelevant").values()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"controls": ["corect"]},
            "gsm_symbolic: unknown control 'corect'; did you mean 'correct'",
        ),
        (
            {"datasets": [{"from": "gsm_symbolic", "responses": ["simple"]}]},
            "unknown response 'simple'; did you mean 'simplified'",
        ),
        ({"datasets": ["gsm_symbolik"]}, "did you mean 'gsm_symbolic'"),
    ],
)
def test_unknown_names_are_refused_before_any_work(changes, message):
    with pytest.raises(UserError, match=message):
        study(**changes)
