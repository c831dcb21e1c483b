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

from layergrad.config import ExtractionSettings, RuntimeSettings, Study
from layergrad.errors import UserError
from layergrad.models import fetch
from layergrad.models.encode import Encoded
from layergrad.models.random import byte_tokenizer, random_model
from layergrad.plan import Plan
from layergrad.provenance import write_json
from layergrad.spectra import extract, pair, single
from layergrad.spectra.extract import Extractor
from layergrad.spectra.limits import Failed
from layergrad.spectra.pair import extract_pair
from layergrad.spectra.store import SCHEMA, Store, incomplete
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

    def counted(plan, model, folder, new, *others):
        counts.append(len(new))
        return original(plan, model, folder, new, *others)

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


def results_of(model, samples, budget=500, projections=("q",)) -> dict:
    extractor = Extractor(model, list(projections), token_budget=budget)
    found = [result for batch in extractor.run(samples) for result in batch]
    assert sorted(i for i, _ in found) == list(range(len(samples)))  # each once
    return dict(found)


def reasons_of(results: dict) -> dict[int, str]:
    return {i: r.reason for i, r in results.items() if isinstance(r, Failed)}


@pytest.mark.parametrize("budget", [1, 500])
@pytest.mark.parametrize("beyond", [300, 10**9, -1])
def test_a_token_outside_the_embedding_fails_alone(budget, beyond):
    wrong = Encoded((5, 6, beyond, 7), 1, 4)
    results = results_of(random_model("llama", SHAPE, 0), [SAMPLES[0], wrong, SAMPLES[1]], budget)
    assert reasons_of(results) == {1: "token_unknown"}
    assert f"token {beyond} at position 2 is beyond the 300 tokens" in results[1].detail


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("gpt2", {"n_positions": 32}),
        ("gpt_neo", {"attention_types": [[["global"], 3]], "attn_implementation": "eager"}),
        ("opt", {"max_position_embeddings": 32, "word_embed_proj_dim": 48}),
        ("biogpt", {"max_position_embeddings": 32}),
        ("gptj", {"n_positions": 32, "rotary_dim": 4, "attn_implementation": "eager"}),
        ("llama", {"max_position_embeddings": 32}),
    ],
)
@pytest.mark.parametrize("budget", [1, 500])
def test_a_sample_beyond_the_positions_fails_alone(architecture, shape, budget):
    """The last that fits is measured; rotary positions are computed, so nothing is too long."""
    if architecture == "gpt_neo":
        shape = shape | {"max_position_embeddings": 32, "num_layers": 3}
    model = random_model(architecture, shape, 0)
    samples = [Encoded(tuple(range(3, 3 + n)), 2, n) for n in (33, 32, 20)]
    results = results_of(model, samples, budget)
    expected = {} if architecture == "llama" else {0: "too_long_for_model"}
    assert reasons_of(results) == expected
    if expected:
        assert results[0].detail == "33 tokens, but the model has 32 positions"


def raising_for(monkeypatch, token: int | None, error: Exception) -> None:
    """Let every batch that holds a token, or any batch, raise an error."""
    original = extract.measure

    def measure(model, places, projections, batch, reduction):
        if token is None or (batch.ids == token).any():
            raise error
        return original(model, places, projections, batch, reduction)

    monkeypatch.setattr(extract, "measure", measure)


@pytest.mark.parametrize("budget", [1, 500])
@pytest.mark.parametrize("error", [IndexError("odd"), RuntimeError("odd"), ValueError("odd")])
def test_an_error_on_one_sample_fails_it_alone(monkeypatch, budget, error, capsys):
    raising_for(monkeypatch, 42, error)  # the longest sample alone holds it
    results = results_of(random_model("llama", SHAPE, 0), SAMPLES, budget)
    assert reasons_of(results) == {0: "error"}
    assert results[0].detail.startswith(f"{type(error).__name__}: odd (test_extraction.py, line ")
    assert "one sample of 40 tokens failed" in capsys.readouterr().err


def test_memory_of_the_host_that_runs_out_is_no_error(monkeypatch):
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
    raising_for(monkeypatch, 42, error)
    results = results_of(random_model("llama", SHAPE, 0), SAMPLES)
    assert reasons_of(results) == {0: "out_of_memory"}


@pytest.mark.parametrize("error", [UserError("this model is not covered")])
def test_a_refusal_of_the_model_stops_the_job(monkeypatch, error):
    raising_for(monkeypatch, 42, error)
    with pytest.raises(UserError, match="not covered"):
        results_of(random_model("llama", SHAPE, 0), SAMPLES)


def test_a_spectrum_that_did_not_come_is_a_refusal(monkeypatch):
    model = random_model("llama", SHAPE, 0)
    extractor = Extractor(model, ["q", "v"])
    extractor.places = [p for p in extractor.places if not (p.layer == 1 and "v" in p.projections)]
    with pytest.raises(UserError, match="no spectrum of v in layer 1"):
        list(extractor.run(SAMPLES[:1]))


def test_errors_of_some_samples_are_recorded_and_of_all_stop_the_job(folder, monkeypatch):
    plan = Plan(study(4))
    letter = byte_tokenizer()("d", add_special_tokens=False)["input_ids"][0]
    raising_for(monkeypatch, letter, IndexError("odd"))  # of the instruction in row 3
    for cell in run(plan, rows(4))["cells"]:
        failures = read_table(cell["failures"], FAILURES)
        assert failures.select("row", "reason").rows() == [(3, "error")]
    raising_for(monkeypatch, None, IndexError("odd"))
    with pytest.raises(UserError, match=r"each of the 16 samples raised an error.*odd"):
        run(Plan(study(4, extraction={"reduction": "sum"})), rows(4))


def whole_cell() -> pl.DataFrame:
    """Spectra of two samples as the store reads them."""
    return pl.DataFrame(
        [
            {
                "content": content,
                "layer": layer,
                "projection": projection,
                "tokens": tokens,
                "response_tokens": 1,
                "loss": 1.0,
                "singular_values": [1.0] * min(tokens, 4),
            }
            for content, tokens in (("a", 3), ("b", 9))
            for layer in (0, 1)
            for projection in ("q", "v")
        ],
        schema_overrides=SCHEMA,
    )


one = (pl.col("content") == "a") & (pl.col("layer") == 1) & (pl.col("projection") == "v")
DAMAGE = {
    "has 0 spectra of v in layer 1": lambda rows: rows.filter(~one),
    "has 2 spectra of v in layer 1": lambda rows: pl.concat([rows, rows.filter(one)]),
    "no sample has a spectrum of v": lambda rows: rows.filter(pl.col("projection") == "q"),
    "has 0 spectra of q in layer 0": lambda rows: rows.filter(pl.col("content") == "b"),
    "has 2 values of 3 tokens": lambda rows: with_values(rows, [1.0, 1.0]),
    "has 4 values of 3 tokens": lambda rows: with_values(rows, [1.0] * 4),
    "has 3 values of 3 tokens, or one that is not": lambda r: with_values(r, [1.0, None, 1.0]),
    "has 3 values of 3 tokens, or one": lambda rows: with_values(rows, [float("nan"), 1.0, 0.0]),
    "has 0 values of 3 tokens": lambda rows: with_values(rows, []),
}


def with_values(rows: pl.DataFrame, values: list) -> pl.DataFrame:
    new = pl.lit(pl.Series([values], dtype=pl.List(pl.Float32)))
    return rows.with_columns(
        pl.when(one).then(new).otherwise("singular_values").alias("singular_values")
    )


@pytest.mark.parametrize("message", DAMAGE)
def test_spectra_that_are_not_whole_are_named(message):
    assert incomplete(whole_cell(), ["a", "b"], ["q", "v"]) is None
    assert message in incomplete(DAMAGE[message](whole_cell()), ["a", "b"], ["q", "v"])


def test_a_cell_that_would_lack_spectra_is_not_written(folder, monkeypatch):
    """A part that lost rows is not taken for whole because its samples are known."""
    original, first = Store.add_part, []

    def lossy(store, new):
        first.append(len(new))
        original(store, new[1:] if len(first) == 1 else new)

    monkeypatch.setattr(Store, "add_part", lossy)
    with pytest.raises(UserError, match="has 0 spectra of") as caught:
        run(Plan(study(2)), rows(2))
    assert not Path(str(caught.value).split(": ")[0]).exists()


def test_the_index_shows_a_prompt_of_every_response(folder):
    index = run(Plan(study(3, extraction={"max_length": 256})), rows(3, long=0))
    shown = index["examples"]["prompts"]
    assert [(p["response"], p["row"]) for p in shown] == [("none", 1), ("detailed", 1)]
    assert shown[0]["text"][-1] == ["yescorrect", True]
    assert "".join(text for text, _ in shown[0]["text"]).endswith("ab\nyescorrect")


KILLED = """
import sys
sys.path[:0] = {path!r}
from tests.unit.test_extraction import Plan, rows, run, study
from layergrad.spectra.limits import Failed
from layergrad.spectra.store import SCHEMA, Store, incomplete
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


def test_an_output_that_is_something_else_is_not_replaced(folder):
    rows = '[{"instruction": "Hi", "output": "Yes"}]'
    samples = Path("samples.json")
    samples.write_text(rows)
    Path("model").mkdir()
    refused = single.single_study("model", samples, {}, ExtractionSettings(), RuntimeSettings())
    with pytest.raises(UserError, match=r"samples\.json: is there already"):
        single.extract_file(refused, samples)
    assert samples.read_text() == rows
    os.mkfifo("pipe")
    with pytest.raises(UserError, match="pipe: is no ordinary file"):
        write_table(pl.DataFrame(schema=FAILURES.schema), FAILURES, "pipe", {})
    assert Path("pipe").is_fifo()
