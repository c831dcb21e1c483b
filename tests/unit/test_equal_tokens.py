"""Responses cut to equal numbers of tokens: the length control of fast against slow thinking."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from layergrad.config import Study
from layergrad.datasets.build import build_dataset
from layergrad.models.encode import Encoder
from layergrad.models.fetch import fetch_model
from layergrad.models.load import load_tokenizer
from layergrad.plan import Plan
from layergrad.provenance import read_json
from layergrad.spectra.pair import extract_pair
from layergrad.spectra.tokens import tokenise_cells
from layergrad.statistics.pair import aggregate
from layergrad.statistics.study import collect
from layergrad.tables import DATASET, FAILURES, SPECTRA, read_table, write_table

SHAPE = {"num_hidden_layers": 3}
RESPONSES = ["none", "simplified", "detailed"]


def study(**settings) -> Study:
    model = {
        "name": "tiny",
        "source": {"kind": "random", "architecture": "llama", "shape": SHAPE},
        "family": "tiny",
        "tuning": "base",
    }
    dataset = {"name": "sums", "source": {"kind": "reasoning_gym", "rows": 20}}
    dataset["responses"] = settings.pop("responses", RESPONSES)
    dataset |= settings.pop("dataset", {})
    return Study.model_validate(
        {
            "models": [model],
            "datasets": [dataset],
            "samples": 6,
            "extraction": {"max_length": 4096, "projections": ["q", "v"]},
            "statistics": {"draws": 100, "metrics": ["nuclear_norm"]},
            "runtime": {"threads": 1},
            **settings,
        }
    )


def extracted(plan: Plan, frame: pl.DataFrame | None = None) -> dict:
    samples, receipt = Path("samples.parquet"), plan.model_file("tiny")
    frame = build_dataset(plan.study, "sums")[0] if frame is None else frame
    write_table(frame, DATASET, samples, {})
    if not Path(receipt).exists():
        fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), receipt)
    return extract_pair(plan, "tiny", "sums", receipt, samples, plan.spectra_file("tiny", "sums"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cell(plan: Plan, response: str):
    cells = plan.measured_cells("tiny", "sums")
    return next(c for c in cells if c.response == response and c.control == "correct")


def test_both_responses_of_an_instruction_have_the_same_number_of_tokens(folder):
    plan = Plan(study())
    extracted(plan)
    tables = {r: read_table(plan.cell_file(cell(plan, r)), SPECTRA) for r in RESPONSES}
    cut = {r: read_table(plan.cell_file(cell(plan, f"{r}_cut")), SPECTRA) for r in RESPONSES[::2]}
    counts = {name: counted(table) for name, table in tables.items()}
    assert counted(cut["none"]) == counted(cut["detailed"])
    assert counted(cut["none"]) == {
        row: min(counts["none"][row], counts["detailed"][row]) for row in range(6)
    }
    assert cut["detailed"]["response"].unique().to_list() == ["detailed_cut"]
    prompts = tables["detailed"].select(pl.col("tokens") - pl.col("response_tokens"))
    assert prompts.equals(cut["detailed"].select(pl.col("tokens") - pl.col("response_tokens")))


def counted(table: pl.DataFrame) -> dict[int, int]:
    rows = table.select("row", "response_tokens").unique().sort("row")
    places = {row: i for i, row in enumerate(rows["row"])}
    return {places[row]: tokens for row, tokens in rows.iter_rows()}


def test_the_longer_one_is_the_one_that_is_cut(folder):
    plan = Plan(study())
    fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), plan.model_file("tiny"))
    path = read_json(plan.model_file("tiny"))["path"]
    encoder = Encoder(load_tokenizer(path), "clean", False, None, 4096)
    texts = {"none": ["a b c d e f", "x"], "detailed": ["uv", "y z"]}
    frame = pl.DataFrame(
        [
            {
                "sample_id": f"id{i}",
                "row": i,
                "dataset": "sums",
                "response": response,
                "control": "correct",
                "instruction": "Why?",
                "response_text": text,
            }
            for response, both in texts.items()
            for i, text in enumerate(both)
        ]
    )
    write_table(frame, DATASET, "samples.parquet", {})
    tokens = tokenise_cells(
        "samples.parquet", plan.equal_cells("tiny", "sums"), ("none", "detailed"), encoder, {}
    )
    prompt = len(encoder.tokenizer("Why?\n")["input_ids"])
    found = {
        (s["response"], s["row"]): encoder.tokenizer.decode(
            tokens.encoded[s["content"]].ids[prompt:]
        )
        for s in tokens.samples
    }
    assert found == {
        ("none_cut", 0): "a ",
        ("detailed_cut", 0): "uv",
        ("none_cut", 1): "x",
        ("detailed_cut", 1): "y",
    }


def test_a_response_that_need_not_be_cut_is_not_measured_again(folder):
    record = extracted(Plan(study(controls=["correct"])))
    assert record["provenance"]["measured"] == 3 * 6 + 6  # the slow ones, cut
    assert len(record["cells"]) == 5


def test_they_are_added_to_a_finished_study_alone(folder):
    extracted(Plan(study(equal_tokens=False)))
    assert extracted(Plan(study()))["provenance"]["measured"] == 6


def with_first_detailed(frame: pl.DataFrame, text: str) -> pl.DataFrame:
    first = (pl.col("row") == frame["row"].min()) & (pl.col("response") == "detailed")
    other = pl.when(first).then(pl.lit(text)).otherwise(pl.col("response_text"))
    return frame.with_columns(response_text=other)


def test_an_instruction_that_lacks_one_response_fails_in_both_with_the_reason(folder):
    plan = Plan(study())
    extracted(plan, with_first_detailed(build_dataset(plan.study, "sums")[0], ""))
    for response in ("none_cut", "detailed_cut"):
        file = Path(plan.cell_file(cell(plan, response)))
        failures = read_table(file.with_suffix(".failures.parquet"), FAILURES)
        assert failures["reason"].to_list() == ["no_response_tokens"]
        assert read_table(file, SPECTRA)["row"].n_unique() == 5
    none = read_table(plan.cell_file(cell(plan, "none")), SPECTRA)
    assert none["row"].n_unique() == 6


def test_a_response_that_is_too_long_only_uncut_is_measured_when_it_is_cut(folder):
    plan = Plan(study())
    extracted(plan, with_first_detailed(build_dataset(plan.study, "sums")[0], "long " * 1000))
    uncut = Path(plan.cell_file(cell(plan, "detailed"))).with_suffix(".failures.parquet")
    assert read_table(uncut, FAILURES)["reason"].to_list() == ["too_long"]
    for response in ("none_cut", "detailed_cut"):
        assert read_table(plan.cell_file(cell(plan, response)), SPECTRA)["row"].n_unique() == 6


def test_the_claims_are_tested_with_them(folder):
    plan = Plan(study())
    extracted(plan)
    target = Path(plan.statistics_folder("tiny", "sums"))
    aggregate(plan, "tiny", "sums", Path(plan.spectra_file("tiny", "sums")), target)
    collect(plan, [target], folder / "statistics")
    findings = pl.read_parquet(folder / "statistics" / "findings.parquet")
    tests = findings.filter(variant="equal_tokens", part="size")
    assert tests.height == 2
    assert tests["effect"].is_not_null().all()
    mad = findings.filter(claim=2, part="all", variant="equal_tokens")
    assert mad["effect"].is_not_null().all()
    without = Plan(study(equal_tokens=False))
    assert without.statistics_key("tiny", "sums") != plan.statistics_key("tiny", "sums")


@pytest.mark.parametrize(
    "change",
    [
        {"equal_tokens": False},
        {"responses": ["none"]},
        {"controls": ["irrelevant"]},
        {"dataset": {"task": "knowledge"}},
    ],
)
def test_there_are_none_where_there_is_nothing_to_compare(change):
    plan = Plan(study(**change))
    assert plan.equal_cells("tiny", "sums") == []
    assert plan.measured_cells("tiny", "sums") == plan.cells("tiny", "sums")


def test_names_of_cut_responses_are_refused():
    with pytest.raises(ValueError, match="names that end in '_cut'"):
        study(responses=["none", "detailed_cut"], dataset={"added": {"detailed_cut": "x.jsonl"}})
