"""The extraction loop and its store: nothing lost, nothing measured twice, every fault named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from layergrad.config import Study
from layergrad.errors import UserError
from layergrad.models import fetch
from layergrad.models.encode import Encoded
from layergrad.models.random import random_model
from layergrad.plan import Plan
from layergrad.provenance import write_json
from layergrad.spectra import extract, pair
from layergrad.spectra.extract import Extractor, Failed
from layergrad.spectra.pair import extract_pair
from layergrad.spectra.store import Store
from layergrad.tables import DATASET, FAILURES, SPECTRA, read_table, write_table

SHAPE = {"num_hidden_layers": 2}


def study(samples: int = 4, **settings) -> Study:
    model = {
        "name": "tiny",
        "source": {"kind": "random", "architecture": "llama", "shape": SHAPE},
        "family": "tiny",
        "tuning": "base",
    }
    dataset = {
        "name": "letters",
        "source": {"kind": "reasoning_gym"},
        "responses": ["none", "detailed"],
    }
    settings = {"equal_tokens": False, "samples": samples, **settings}
    settings = {"models": [model], "datasets": [dataset], **settings}
    settings["runtime"] = {"threads": 1, **settings.get("runtime", {})}
    return Study.model_validate(settings)


def rows(samples: int, long: int | None = None) -> pl.DataFrame:
    """Two responses and two controls; row `long` has an instruction that does not fit."""
    return pl.DataFrame(
        [
            {
                "sample_id": f"id{i}",
                "row": i,
                "dataset": "letters",
                "response": response,
                "control": control,
                "instruction": "abcdefgh"[: i % 7 + 1] * (600 if i == long else 1),
                "response_text": ("yes" if response == "none" else "step " * (i + 3)) + control,
            }
            for response in ("none", "detailed")
            for control in ("correct", "irrelevant")
            for i in range(samples)
        ]
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(plan: Plan, frame: pl.DataFrame):
    samples, receipt = Path("samples.parquet"), plan.model_file("tiny")
    write_table(frame, DATASET, samples, {"key": "any"})
    if not Path(receipt).exists():
        fetch.fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), receipt)
    return extract_pair(
        plan, "tiny", "letters", receipt, samples, plan.spectra_file("tiny", "letters")
    )


def loads(monkeypatch) -> list[int]:
    """Count how many samples every load of the model measures."""
    counts: list[int] = []
    original = pair._measure_new

    def counted(plan, model, folder, new, store, failed):
        counts.append(len(new))
        return original(plan, model, folder, new, store, failed)

    monkeypatch.setattr(pair, "_measure_new", counted)
    return counts


def test_every_row_ends_in_spectra_or_failures(folder):
    index = run(Plan(study(4)), rows(4, long=2))
    for cell in index["cells"]:
        spectra, failures = (
            read_table(cell["spectra"], SPECTRA),
            read_table(cell["failures"], FAILURES),
        )
        assert spectra["row"].unique().sort().to_list() == [0, 1, 3]
        assert failures["row"].to_list() == [2] and failures["reason"].to_list() == ["too_long"]
        assert (cell["samples"], cell["failed"]) == (3, 1)
        assert spectra.group_by("row").len()["len"].to_list() == [8, 8, 8]


def test_more_samples_cost_only_the_new_ones(folder, monkeypatch):
    counts = loads(monkeypatch)
    first = run(Plan(study(4)), rows(4))
    run(Plan(study(6)), rows(6))
    assert counts == [16, 8]
    old = read_table(first["cells"][0]["spectra"], SPECTRA)
    new = read_table(Plan(study(6)).cell_file(Plan(study(6)).all_cells[0]), SPECTRA)
    assert new.filter(pl.col("row") < 4).equals(old)


def test_a_new_control_measures_its_cells_alone(folder, monkeypatch):
    counts = loads(monkeypatch)
    both = rows(4)
    run(Plan(study(4, controls=["correct"])), both.filter(control="correct"))
    run(Plan(study(4)), both)
    assert counts == [8, 8]


def test_settings_that_count_measure_anew(folder, monkeypatch):
    counts = loads(monkeypatch)
    run(Plan(study(4)), rows(4))
    run(Plan(study(4, extraction={"reduction": "sum"})), rows(4))
    run(Plan(study(4, runtime={"token_budget": 100}, report={"title": "other"})), rows(4))
    assert counts == [16, 16]


def test_an_interrupted_run_goes_on_where_it_stopped(folder, monkeypatch):
    plan, counts = Plan(study(6, runtime={"token_budget": 60})), loads(monkeypatch)
    undisturbed = run(plan, rows(6))
    contents = {c["spectra"]: Path(c["spectra"]).read_bytes() for c in undisturbed["cells"]}
    for file in Path("data/spectra").rglob("*.parquet"):
        file.unlink()
    parts = []
    original = Store.add_part

    def stop_after_two(store, new):
        original(store, new)
        parts.append(new)
        if len(parts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "add_part", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(plan, rows(6))
    monkeypatch.setattr(Store, "add_part", original)
    kept = len({row["content"] for part in parts for row in part})
    assert kept > 0
    run(plan, rows(6))
    assert counts == [24, 24, 24 - kept]
    assert {file: Path(file).read_bytes() for file in contents} == contents
    assert not list(Path("data/spectra").rglob(".parts"))


def test_a_broken_file_is_measured_again(folder, monkeypatch):
    plan, counts = Plan(study(4)), loads(monkeypatch)
    index = run(plan, rows(4))
    file = Path(index["cells"][1]["spectra"])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    run(plan, rows(4))
    assert counts == [16, 4] and file.read_bytes() == whole


def test_a_model_whose_files_changed_is_refused(folder):
    plan = Plan(study(4))
    record = fetch.fetch_model(
        plan.study.model("tiny"), plan.model_key("tiny"), plan.model_file("tiny")
    )
    weights = Path(record["path"], "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.safetensors: is missing or was changed"):
        run(plan, rows(4))


def test_a_failed_preflight_stops_every_sample_with_its_reason(folder):
    plan = Plan(study(4))
    fetch.fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), plan.model_file("tiny"))
    write_table(rows(4), DATASET, "samples.parquet", {"key": "any"})
    bad = {"name": "padding", "status": "failed", "detail": "differs by 7"}
    write_json({"checks": [bad]}, "preflight.json")
    files = [plan.model_file("tiny"), "samples.parquet", plan.spectra_file("tiny", "letters")]
    index = extract_pair(plan, "tiny", "letters", *files, preflight="preflight.json")
    failures = read_table(index["cells"][0]["failures"], FAILURES)
    assert set(failures["reason"]) == {"preflight"}
    assert "padding: differs by 7" in failures["detail"][0]
    assert [cell["samples"] for cell in index["cells"]] == [0, 0, 0, 0]


def test_weights_that_are_not_finite_fail_every_sample(folder, monkeypatch):
    original = pair.load

    def poisoned(*arguments):
        model, device = original(*arguments)
        model.model.layers[1].self_attn.o_proj.weight.data[3, 3] = torch.nan
        return model, device

    monkeypatch.setattr(pair, "load", poisoned)
    index = run(Plan(study(3)), rows(3))
    failures = read_table(index["cells"][0]["failures"], FAILURES)
    assert failures["reason"].to_list() == ["non_finite"] * 3
    assert "the loss is nan" in failures["detail"][0]


SAMPLES = [Encoded(tuple(range(3, 3 + n)), 2, n) for n in (40, 10, 30, 20, 10, 25)]


def memory_for(monkeypatch, tokens: int) -> list[int]:
    """Simulate a device that runs out of memory above so many tokens."""
    tried = []
    original = extract.measure

    def limited(model, places, projections, batch, reduction):
        tried.append(batch.ids.numel())
        if batch.ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return original(model, places, projections, batch, reduction)

    monkeypatch.setattr(extract, "measure", limited)
    return tried


def test_running_out_of_memory_halves_the_budget_and_goes_on(monkeypatch):
    tried = memory_for(monkeypatch, 80)
    extractor = Extractor(random_model("llama", SHAPE, 0), ["q"], token_budget=500)
    results = dict(result for batch in extractor.run(SAMPLES) for result in batch)
    assert sorted(results) == list(range(6))
    assert not any(isinstance(result, Failed) for result in results.values())
    assert tried[0] > 80 and extractor.usage.token_budget <= 120


def test_a_sample_that_does_not_fit_alone_fails_and_the_rest_goes_on(monkeypatch):
    memory_for(monkeypatch, 35)
    extractor = Extractor(random_model("llama", SHAPE, 0), ["q"], token_budget=500)
    results = dict(result for batch in extractor.run(SAMPLES) for result in batch)
    assert results[0].reason == "out_of_memory"
    assert [i for i, r in results.items() if isinstance(r, Failed)] == [0]


KILLED = """
import sys
sys.path[:0] = {path!r}
from tests.unit.test_extraction import Plan, rows, run, study
from layergrad.spectra.store import Store
original = Store.add_part
def said(store, new):
    original(store, new)
    print("part", flush=True)
    import time; time.sleep(0.3)
Store.add_part = said
run(Plan(study(6, runtime={{"token_budget": 60}})), rows(6))
"""


def test_killed_with_minus_9_it_loses_the_batch_under_way_at_most(folder, monkeypatch):
    plan, root = Plan(study(6, runtime={"token_budget": 60})), Path(__file__).parents[2]
    code = KILLED.format(path=[str(root), str(root / "src")])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline() == "part\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(Path("data/spectra/tiny/letters").glob("*.parquet"))
    known = len(Store("data/spectra/tiny/letters").known())
    counts = loads(monkeypatch)
    index = run(plan, rows(6))
    assert known >= 3 and counts == [24 - known]
    assert all(cell["samples"] == 6 for cell in index["cells"])
