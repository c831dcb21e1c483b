"""Published statistics as a source, comparison of studies, and loading results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import layergrad
from layergrad.config import load_study, resolve_study
from layergrad.datasets.build import build_dataset
from layergrad.errors import UserError
from layergrad.models.fetch import fetch_model
from layergrad.plan import Plan
from layergrad.provenance import read_provenance
from layergrad.statistics.compare import compare, summary
from layergrad.statistics.pair import aggregate
from layergrad.statistics.published import find_sources, import_published
from layergrad.statistics.study import collect
from tests.synthetic import tiny_study, write_study_spectra

LAYERS = 4


def record(instruction: str, size: float, **changes: object) -> dict:
    """Return one sample as the paper's authors publish it, with known numbers."""
    places = {
        f"model.layers.{layer}.self_attn.{p}_proj.weight": {
            "M_mean": 0.0,
            "M_max": 1.0,
            "M_min": -1.0,
            "frobenius_norm": size * 0.5,
            "S_sum": size * (1 + layer),
            "S_max": size * 0.4,
            "S_min": 1e-9,
        }
        for layer in range(LAYERS)
        for p in "qkvo"
    }
    return {"instruction": instruction, "output": "x", "loss": 2.0, **places, **changes}


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two models as the authors lay them out, where none > simplified > detailed."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for model, factor in (("qwen2_1_5b", 1.0), ("qwen2_1_5b_it_new", 1.5)):
        for task in ("cot_500", "cot_500_wrong_answer_shuffle"):
            for kind, size in (("no_cot", 4.0), ("with_cot", 2.0), ("with_cot_gpt4o", 1.0)):
                size *= factor if kind == "no_cot" else 1
                size *= 1.5 if "wrong" in task and kind == "with_cot_gpt4o" else 1
                records = [record(f"q{i}", size * rng.gamma(50, 1 / 50)) for i in range(12)]
                path = Path("grads_exp") / task / model / f"grads_aqua_train_{kind}.jsonl"
                write_jsonl(path, records)
    return Path("grads_exp")


def tables_of(study_file: Path) -> Path:
    plan = Plan(load_study(study_file))
    for pair in plan.pairs:
        folder = Path(plan.statistics_folder(*pair))
        aggregate(plan, *pair, Path(plan.spectra_file(*pair)), folder)
    collect(plan, None, Path("data/statistics"))
    return Path("data/statistics")


def test_published_statistics_give_every_table(published):
    study_file = import_published(published, Path("data/raw/published"))
    study = load_study(study_file)
    assert [m.name for m in study.models] == ["qwen2-1-5b", "qwen2-1-5b-instruct"]
    assert {m.family for m in study.models} == {"qwen2-1-5b"}
    assert [m.tuning for m in study.models] == ["base", "instruct"]
    assert study.datasets[0].responses == ["none", "simplified", "detailed"]
    assert study.datasets[0].controls == ["correct", "irrelevant_paper"]
    folder = tables_of(study_file)

    curves = pl.read_parquet(folder / "curves.parquet")
    cell = {"model": "qwen2-1-5b", "response": "simplified", "control": "correct"}
    nuclear = curves.filter(**cell, projection="q", metric="nuclear_norm").sort("layer")
    # S_sum is size * (1 + layer) in every sample
    assert (nuclear["mean"] / nuclear["mean"][0]).to_list() == pytest.approx([1, 2, 3, 4])
    assert nuclear["samples"].to_list() == [12] * LAYERS
    ratio = curves.filter(**cell, projection="q", metric="sigma1_ratio").sort("layer")
    assert ratio["mean"].to_list() == pytest.approx([0.4 / (1 + i) for i in range(LAYERS)])

    found = pl.read_parquet(folder / "findings.parquet")
    verdict = {
        (c, v): found.filter(claim=c, variant=v, projection="q")["verdict"].unique().to_list()
        for c, v in ((1, "raw"), (1, "sum_loss"), (3, "raw"))
    }
    assert verdict[1, "raw"] == ["supported"]
    assert verdict[1, "sum_loss"] == ["not testable"]
    assert verdict[3, "raw"] == ["supported"]
    tokens = pl.read_parquet(folder / "samples.parquet")["response_tokens"]
    assert tokens.is_null().all()


def test_import_is_repeatable_and_follows_the_content(published):
    first = import_published(published, Path("data/raw/published")).read_bytes()
    indexes = sorted(str(f) for f in Path("data/spectra").rglob("*.json"))
    assert import_published(published, Path("data/raw/published")).read_bytes() == first
    assert sorted(str(f) for f in Path("data/spectra").rglob("*.json")) == indexes
    file = next(published.rglob("grads_aqua_train_no_cot.jsonl"))
    write_jsonl(file, [record("q0", 3.0)])
    import_published(published, Path("data/raw/published"))
    assert len(list(Path("data/spectra").rglob("*.json"))) > len(indexes)


def test_samples_pair_by_instruction_and_nan_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("in/cot_500/m")
    write_jsonl(folder / "a_train_no_cot.jsonl", [record(f"q{i}", 1.0) for i in (0, 1, 1, 2)])
    other = [record(f"q{i}", 1.0) for i in (2, 1, 0)]
    other[1]["loss"] = math.nan
    write_jsonl(folder / "a_train_with_cot.jsonl", other)
    study = load_study(import_published(Path("in"), Path("out")))
    tables = {
        r: pl.read_parquet(f"out/a/m.{r}.correct.parquet").unique("row").sort("row")
        for r in ("none", "simplified")
    }
    assert tables["none"]["row"].to_list() == [0, 1, 2, 3]
    assert tables["none"]["sample_id"].n_unique() == 4
    joined = tables["simplified"].join(tables["none"], on=["row", "sample_id"])
    assert joined.height == tables["simplified"].height == 2
    failures = pl.read_parquet("out/a/m.simplified.correct.failures.parquet")
    assert failures.select("row", "reason", "detail").rows() == [(1, "non_finite", "loss is nan")]
    assert Plan(study).pairs == [("m", "a")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "line 1: not valid JSON"),
        (json.dumps({"instruction": "q"}), "line 1: has no loss"),
        (json.dumps({"instruction": "q", "loss": 1.0}), "line 1: has no statistics"),
        (json.dumps({**record("q", 1.0), "loss": "2"}), "line 1: loss is '2', not a number"),
        (
            json.dumps(record("q", 1.0) | {"model.layers.0.self_attn.q_proj.weight": {}}),
            "line 1: a projection lacks",
        ),
        (
            json.dumps(record("q", 1.0))
            + "\n"
            + json.dumps({k: v for k, v in record("p", 1.0).items() if ".3." not in k}),
            "line 2: has other layers",
        ),
    ],
)
def test_malformed_files_are_refused_with_their_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/aqua_train_no_cot.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        import_published(Path(), Path("out"))
    assert not Path("out/study.json").exists()


def test_files_are_known_by_their_names(tmp_path):
    names = {
        "cot_500/llama3_8b/grads_gsm8k_train_with_cot_gpt4o.jsonl": "gsm8k/detailed/correct",
        "lighteval_math_wrong_answer_shuffle/llama3_8b/grads_counting_probability_with_cot.jsonl": (
            "math_counting/simplified/irrelevant_paper"
        ),
        "wiki_popularity/llama3_8b/grads_popular_wikipedia_1000.jsonl": (
            "wiki_popular_1000/len1000/correct"
        ),
        "wiki_popularity/llama3_8b/grads_long_tail_wikipedia.jsonl": (
            "wiki_unpopular/len100/correct"
        ),
    }
    for name in names:
        write_jsonl(tmp_path / name, [])
    sources = {s.file.relative_to(tmp_path).as_posix(): s for s in find_sources(tmp_path)}
    assert {n: "/".join(s[2:]) for n, s in sources.items()} == names
    assert {s.model for s in sources.values()} == {"llama-3-1-8b"}
    write_jsonl(tmp_path / "cot_500/llama3_8b/other.jsonl", [])
    with pytest.raises(UserError, match=r"other.jsonl: the name does not tell"):
        find_sources(tmp_path)


def test_files_in_no_folder_need_a_model(tmp_path):
    write_jsonl(tmp_path / "aqua_train_no_cot.jsonl", [])
    with pytest.raises(UserError, match="--model NAME"):
        find_sources(tmp_path)
    assert find_sources(tmp_path, "SmolLM2-135M-Instruct")[0].model == "smollm2-135m-instruct"


def test_a_metric_that_was_not_published_is_refused(published):
    study_file = import_published(published, Path("data/raw/published"))
    study = json.loads(study_file.read_text())
    study["statistics"]["metrics"] = ["nuclear_norm", "effective_rank"]
    study_file.write_text(json.dumps(study))
    with pytest.raises(UserError, match="published statistics have no effective_rank"):
        tables_of(study_file)


# ------------------------------------------------------------------------------------- compare


def test_nothing_can_be_fetched_or_built_of_published_statistics(published):
    study = load_study(import_published(published, Path("data/raw/published")))
    with pytest.raises(UserError, match="only published statistics of it are here, no weights"):
        fetch_model(study.models[0], "0" * 10, "model.json")
    with pytest.raises(UserError, match="no text to build"):
        build_dataset(study, study.datasets[0].name)


def test_published_and_measured_are_not_mixed_in_one_study(published):
    file = import_published(published, Path("data/raw/published"))
    raw = load_study(file).model_dump(mode="json")
    raw["models"].append(tiny_study().models[0].model_dump(mode="json"))
    with pytest.raises(UserError, match=r"keep them in a study of their own .*layergrad compare"):
        resolve_study(raw)


@pytest.fixture
def two_studies(tmp_path, monkeypatch):
    """The same study twice, once with gradients half as large again."""
    study = tiny_study(models=("m",), datasets=("gsm_symbolic",), samples=4)
    folders = []
    for name, factor in (("ours", 1.5), ("theirs", 1.0)):
        root = tmp_path / name
        root.mkdir()
        monkeypatch.chdir(root)
        write_study_spectra(root, study, model_scale={"m": dict.fromkeys(("none",), factor)})
        Path("study.json").write_text(study.model_dump_json())
        folders.append(root / tables_of(Path("study.json")))
    monkeypatch.chdir(tmp_path)
    return folders


def test_compare_gives_the_relative_difference_by_layer(two_studies):
    ours, theirs = two_studies
    frame = compare(ours, theirs, Path("out.parquet"))
    nuclear = frame.filter(metric="nuclear_norm", control="correct")
    by_response = nuclear.group_by("response").agg(pl.col("relative_difference").mean())
    expected = {"none": 0.5, "simplified": 0.0, "detailed": 0.0}
    assert dict(by_response.rows()) == pytest.approx(expected, abs=1e-6)
    assert summary(frame).filter(response="none", metric="nuclear_norm")["layers"][0] == 6
    assert len(read_provenance("out.parquet")["inputs"]) == 2
    compare(ours, theirs, Path("out.csv"))
    assert pl.read_csv("out.csv").height == frame.height


def test_compare_matches_models_by_name_or_by_hand(two_studies):
    ours, theirs = two_studies
    curves = pl.read_parquet(theirs / "curves.parquet")
    renamed = curves.with_columns(model=pl.lit("other"))
    renamed.write_parquet("one.parquet")
    assert compare(ours, Path("one.parquet"), Path("o.csv")).height == curves.height
    pl.concat([renamed, curves.with_columns(model=pl.lit("third"))]).write_parquet("two.parquet")
    with pytest.raises(UserError, match="--same OURS=THEIRS"):
        compare(ours, Path("two.parquet"), Path("o.csv"))
    assert compare(ours, Path("two.parquet"), Path("o.csv"), {"m": "third"}).height
    with pytest.raises(UserError, match="no model 'fourth' in theirs"):
        compare(ours, Path("two.parquet"), Path("o.csv"), {"m": "fourth"})
    curves.with_columns(dataset=pl.lit("elsewhere")).write_parquet("three.parquet")
    with pytest.raises(UserError, match="share no cell"):
        compare(ours, Path("three.parquet"), Path("o.csv"))


# ---------------------------------------------------------------------------------------- load


def test_load_gives_frames_of_the_current_configuration(two_studies, tmp_path):
    root = tmp_path / "ours"
    metrics = layergrad.load("metrics", "study.json", root)
    assert metrics.filter(metric="nuclear_norm").height == 6 * 4 * 6 * 4
    lazy = layergrad.load("metrics", "study.json", root, lazy=True)
    assert lazy.select(pl.len()).collect().item() == metrics.height
    mad = layergrad.load("mad", "study.json", root).to_pandas()
    assert set(mad["band"]) == {"all", "early", "middle", "late"}
    with pytest.raises(UserError, match="did you mean 'curves'"):
        layergrad.load("curve", "study.json", root)
    study = json.loads((root / "study.json").read_text())
    study["statistics"]["draws"] = 101
    (root / "other.json").write_text(json.dumps(study))
    with pytest.raises(UserError, match="of another study"):
        layergrad.load("mad", "other.json", root)
    with pytest.raises(UserError, match="missing; run `snakemake`"):
        layergrad.load("metrics", "other.json", root)
