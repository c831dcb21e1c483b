"""Metrics, bands, bootstrap, curves and the tables of a pair against answers known beforehand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from layergrad.errors import UserError
from layergrad.plan import PAIR_TABLES, STUDY_TABLES, Plan
from layergrad.provenance import digest, read_json, read_provenance, write_json
from layergrad.statistics.bands import bands
from layergrad.statistics.bootstrap import instruction_weights, interval, weighted_means
from layergrad.statistics.curves import mad, relative_difference
from layergrad.statistics.metrics import METRICS, defined, measure
from layergrad.statistics.pair import aggregate
from layergrad.statistics.study import collect
from layergrad.tables import SPECTRA, TABLES, read_table, scan_table, write_table
from tests.synthetic import tiny_study, write_study_spectra

# ------------------------------------------------------------------------------------- metrics


def metric(name: str, *spectra: list[float]) -> list[float | None]:
    frame = pl.DataFrame({"s": spectra}, schema={"s": pl.List(pl.Float64)})
    return frame.select(defined(METRICS[name](pl.col("s")))).to_series().to_list()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nuclear_norm", 4.0),
        ("sigma1_ratio", 0.75),
        ("effective_rank", math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))),
        ("frobenius_norm", math.sqrt(10)),
    ],
)
def test_metric_of_known_spectrum(name, expected):
    assert metric(name, [3.0, 1.0, 0.0]) == pytest.approx([expected], rel=1e-14)


def test_effective_rank_of_equal_values_is_their_number():
    assert metric("effective_rank", [0.2] * 7, [1e-9] * 3) == pytest.approx([7.0, 3.0])


def test_ratios_of_a_zero_gradient_are_undefined_and_its_norms_zero():
    assert metric("sigma1_ratio", [0.0, 0.0], []) == [None, None]
    assert metric("effective_rank", [0.0, 0.0], []) == [None, None]
    assert metric("nuclear_norm", [0.0, 0.0], []) == [0.0, 0.0]


def test_sums_are_in_double_precision(tmp_path):
    # in float32, 1 + 1e-8 is 1
    frame = pl.DataFrame(
        {
            **{name: ["x"] for name in ("model", "dataset", "response", "control", "sample_id")},
            **{name: [0] for name in ("row", "layer", "tokens", "response_tokens", "loss")},
            "projection": ["q"],
            "content": [""],
            "singular_values": [[1.0] + [1e-8] * 1000],
        }
    )
    write_table(frame, SPECTRA, tmp_path / "s.parquet", {})
    measured = measure(scan_table([tmp_path / "s.parquet"], SPECTRA), ["nuclear_norm"])
    assert measured["nuclear_norm"][0] == pytest.approx(1 + 1e-5, rel=1e-9)


# --------------------------------------------------------------------------- bands, MAD and RD


@pytest.mark.parametrize(
    ("layers", "cuts"),
    [(26, (7, 20)), (28, (7, 21)), (32, (10, 20)), (42, (12, 30)), (30, (10, 20)), (7, (2, 4))],
)
def test_bands(layers, cuts):
    found = bands(layers)
    assert (found["early"], found["late"]) == (slice(0, cuts[0]), slice(cuts[1], layers))
    assert found["middle"] == slice(*cuts)


def test_mad_by_hand():
    curve = np.array([1.0, 3.0, 2.0, 6.0, 6.0, 5.0])[:, None, None]
    found = {band: value.item() for band, value in mad(curve).items()}
    # steps: 2 1 4 0 1; early holds layers 0-1, middle 2-3, late 4-5
    assert found == pytest.approx({"all": 8 / 5, "early": 2, "middle": 4, "late": 1})


def test_mad_of_bands_too_small_is_undefined():
    found = mad(np.array([1.0, 4.0])[:, None, None])
    assert found["all"].item() == 3
    assert all(np.isnan(found[band].item()) for band in ("early", "middle", "late"))


def test_relative_difference_by_hand():
    found = relative_difference(np.array([3.0, 1.0, 1.0]), np.array([2.0, 4.0, 0.0]))
    assert found[:2].tolist() == [0.5, -0.75]
    assert np.isnan(found[2])


# ----------------------------------------------------------------------------------- bootstrap


def test_draws_are_paired_seeded_and_independent_between_datasets():
    drawn = instruction_weights(["b", "a", "c", "a"], 100, 0, "set")
    again = instruction_weights(["c", "b", "a"], 100, 0, "set")
    assert sorted(drawn) == ["a", "b", "c"]
    assert all((drawn[name] == again[name]).all() for name in drawn)
    assert (sum(drawn.values()) == 3).all()
    assert (instruction_weights(["a", "b", "c"], 100, 0, "other")["a"] != drawn["a"]).any()
    assert (instruction_weights(["a", "b", "c"], 100, 1, "set")["a"] != drawn["a"]).any()


def test_weighted_means_leave_undefined_values_out():
    values = np.array([[1.0, 5.0], [3.0, np.nan], [8.0, np.nan]])
    weights = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]])
    found = weighted_means(weights, values)
    assert found[:, 0] == pytest.approx([7 / 3, 19 / 3])
    assert found[0, 1] == 5
    assert np.isnan(found[1, 1])


def test_interval_of_one_sample_is_undefined():
    low, high = interval(np.ones((10, 2)), 1, 0.95)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("samples", [8, 60])
def test_interval_of_a_mean_covers_at_its_rate(samples, confidence):
    rng = np.random.default_rng(1)
    values = rng.gamma(4, 0.25, (samples, 3000))
    names = [f"{i:03}" for i in range(samples)]
    drawn = instruction_weights(names, 1000, 0, "coverage")
    weights = np.stack([drawn[name] for name in names], axis=1)
    low, high = interval(weighted_means(weights, values), samples, confidence)
    covered = ((low <= 1) & (high >= 1)).mean()
    # skewed values, so a little less; three standard deviations of the Monte Carlo error are 0.02
    assert confidence - 0.03 < covered < confidence + 0.02


def test_paired_interval_of_a_ratio_covers_and_is_shorter_than_an_unpaired_one():
    rng = np.random.default_rng(2)
    samples, studies = 60, 2000
    shared = np.exp(rng.normal(0, 0.8, (samples, studies)))
    correct = shared * rng.gamma(50, 1 / 50, shared.shape)
    wrong = 1.3 * shared * rng.gamma(50, 1 / 50, shared.shape)
    names = [f"{i:03}" for i in range(samples)]
    drawn, other = (instruction_weights(names, 1000, seed, "ratio") for seed in (0, 1))
    weights, unpaired = (np.stack([d[n] for n in names], axis=1) for d in (drawn, other))
    means = weighted_means(weights, correct)
    low, high = interval(relative_difference(weighted_means(weights, wrong), means), samples, 0.95)
    assert 0.93 < ((low <= 0.3) & (high >= 0.3)).mean() < 0.965
    loose = interval(relative_difference(weighted_means(unpaired, wrong), means), samples, 0.95)
    assert np.mean(high - low) < 0.5 * np.mean(loose[1] - loose[0])


# ---------------------------------------------------------------------------- tables of a pair


@pytest.fixture
def study_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def aggregate_all(plan: Plan, indexes: list[Path]) -> dict[tuple[str, str], Path]:
    folders = {}
    for pair, index in zip(plan.pairs, indexes, strict=True):
        folders[pair] = Path(plan.statistics_file(*pair, "curves")).parent
        aggregate(plan, *pair, index, folders[pair])
    return folders


@pytest.fixture
def small(study_root):
    study = tiny_study(
        models=("one-instruct",), datasets=("gsm_symbolic",), samples=10, statistics={"draws": 200}
    )
    indexes = write_study_spectra(
        study_root, study, layers=6, failed={("none", "irrelevant"): 10, ("detailed", "correct"): 2}
    )
    return Plan(study), indexes


def test_tables_agree_with_plain_arithmetic(small):
    plan, indexes = small
    folder = aggregate_all(plan, indexes)["one-instruct", "gsm_symbolic"]
    tables = {t: read_table(folder / f"{t}.parquet", TABLES[t]) for t in PAIR_TABLES}

    def nuclear(control: str) -> dict[int, np.ndarray]:
        cell = next(c for c in plan.all_cells if c[2:] == ("detailed", control))
        spectra = read_table(plan.cell_file(cell), SPECTRA).filter(projection="v")
        return {
            row: np.array([np.sum(s.to_numpy(), dtype=float) for s in group["singular_values"]])
            for (row,), group in spectra.sort("layer").group_by("row", maintain_order=True)
        }

    correct, wrong = nuclear("correct"), nuclear("irrelevant")
    assert (len(correct), len(wrong)) == (8, 10)
    which = {"response": "detailed", "projection": "v", "metric": "nuclear_norm"}
    curve = tables["curves"].filter(**which, control="correct")
    expected = np.mean(list(correct.values()), axis=0)
    assert curve["mean"].to_numpy() == pytest.approx(expected, rel=1e-9)
    assert (curve["low"] < curve["mean"]).all()
    assert (curve["mean"] < curve["high"]).all()
    assert curve["depth"].to_list() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert curve["samples"].to_list() == [8] * 6

    whole = tables["mad"].filter(**which, control="correct", band="all")
    assert whole["value"][0] == pytest.approx(np.abs(np.diff(expected)).mean(), rel=1e-9)
    sample_mads = [np.abs(np.diff(c)).mean() for c in correct.values()]
    assert whole["mean_of_sample_mads"][0] == pytest.approx(np.mean(sample_mads), rel=1e-9)

    # over the instructions that both have
    rd = tables["rd"].filter(**which)
    paired = np.mean([wrong[row] for row in correct], axis=0) / expected - 1
    assert rd["signed"].to_numpy() == pytest.approx(paired, rel=1e-8)
    assert rd["samples"].to_list() == [8] * 6
    summary = tables["rd_summary"].filter(**which)
    assert summary["value"][0] == pytest.approx(np.abs(paired).mean(), rel=1e-8)
    assert summary["top_layers"][0].to_list() == np.argsort(-np.abs(paired))[:5].tolist()

    lengths = tables["lengths"].filter(**which, control="correct")
    assert lengths["value"].to_numpy() == pytest.approx([c.mean() for c in correct.values()])


def test_empty_cell_is_counted_and_has_no_curve(small):
    plan, indexes = small
    folder = aggregate_all(plan, indexes)["one-instruct", "gsm_symbolic"]
    tables = {t: read_table(folder / f"{t}.parquet", TABLES[t]) for t in PAIR_TABLES}
    samples = tables["samples"].filter(response="none", control="irrelevant")
    assert samples.select("samples", "failed", "reasons", "loss").row(0) == (
        0,
        10,
        "no_response_tokens: 10",
        None,
    )
    assert tables["curves"].filter(response="none", control="irrelevant").is_empty()
    assert tables["rd"].filter(response="none").is_empty()


def test_a_study_of_nothing_but_failures_has_tables(study_root):
    study = tiny_study(models=("m",), datasets=("knowledge",), samples=2)
    cells = [(r, c) for r in ("len100", "len500", "len1000") for c in ("correct", "irrelevant")]
    indexes = write_study_spectra(study_root, study, failed=dict.fromkeys(cells, 2))
    plan = Plan(study)
    aggregate_all(plan, indexes)
    collect(plan, None, Path("out"))
    assert pl.read_parquet("out/samples.parquet")["failed"].to_list() == [2] * 6
    assert pl.read_parquet("out/curves.parquet").is_empty()


def test_equal_inputs_give_equal_bytes_and_provenance_names_them(small):
    plan, indexes = small
    folder = aggregate_all(plan, indexes)["one-instruct", "gsm_symbolic"]
    first = {f.name: digest(f, "sha256") for f in folder.iterdir()}
    aggregate_all(plan, indexes)
    assert {f.name: digest(f, "sha256") for f in folder.iterdir()} == first
    provenance = read_provenance(folder / "mad.parquet")
    assert provenance["key"] == plan.statistics_key("one-instruct", "gsm_symbolic")
    listed = {
        f"{c['response']}.{c['control']}": c["sha256"] for c in read_json(indexes[0])["cells"]
    }
    assert provenance["inputs"] == listed


def test_repeated_instruction_is_drawn_as_one(small):
    plan, indexes = small
    index = read_json(indexes[0])
    cell = next(c for c in index["cells"] if (c["response"], c["control"]) == ("none", "correct"))
    table = read_table(cell["spectra"], SPECTRA)
    half = table.filter(pl.col("row") < 5)
    twins = half.with_columns(row=pl.col("row") + 5)
    for copies in (half, pl.concat([half, twins])):
        write_table(copies, SPECTRA, cell["spectra"], {})
        cell["sha256"], cell["samples"] = (
            digest(cell["spectra"], "sha256"),
            copies["row"].n_unique(),
        )
        write_json(index, indexes[0])
        folder = aggregate_all(plan, indexes)["one-instruct", "gsm_symbolic"]
        curve = pl.read_parquet(folder / "curves.parquet")
        curve = curve.filter(response="none", control="correct").select("mean", "low", "high")
        if copies is half:
            expected = curve
    # a sample that is there twice adds no information: the interval stays as wide
    assert curve.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, cell: Path(cell["spectra"]).unlink(), "missing; run `dvc pull`"),
        (lambda index, cell: Path(cell["failures"]).unlink(), "missing; run `dvc pull`"),
        (lambda index, cell: Path(cell["spectra"]).write_bytes(b"x"), "was changed after"),
        (lambda index, cell: Path(cell["failures"]).write_bytes(b"x"), "was changed after"),
        (lambda index, cell: index.unlink(), "missing or broken"),
        (
            lambda index, cell: write_json({"key": "other", "cells": []}, index),
            "the study asks for",
        ),
    ],
)
def test_damaged_inputs_are_refused(small, damage, message):
    plan, indexes = small
    damage(indexes[0], read_json(indexes[0])["cells"][0])
    with pytest.raises(UserError, match=message):
        aggregate(plan, "one-instruct", "gsm_symbolic", indexes[0], Path("out"))
    assert not Path("out").exists()


def test_incomplete_sample_is_refused(small):
    plan, indexes = small
    index = read_json(indexes[0])
    cell = index["cells"][0]
    table = read_table(cell["spectra"], SPECTRA)
    write_table(table[1:], SPECTRA, cell["spectra"], {})
    cell["sha256"] = digest(cell["spectra"], "sha256")
    write_json(index, indexes[0])
    with pytest.raises(UserError, match="239 spectra, but 10 samples x 24 places"):
        aggregate(plan, "one-instruct", "gsm_symbolic", indexes[0], Path("out"))
    assert not Path("out/metrics.parquet").exists()


def test_datasets_of_equal_content_stay_apart(study_root):
    study = tiny_study(models=("m",), datasets=("one", "two"), samples=4)
    plan = Plan(study)
    assert plan.statistics_key("m", "one") == plan.statistics_key("m", "two")
    aggregate_all(plan, write_study_spectra(study_root, study))
    collect(plan, None, Path("out"))
    assert pl.read_parquet("out/mad.parquet")["dataset"].unique().sort().to_list() == ["one", "two"]


def test_collect_joins_all_pairs_and_refuses_others(study_root):
    study = tiny_study(samples=4, statistics={"draws": 100})
    plan = Plan(study)
    folders = list(aggregate_all(plan, write_study_spectra(study_root, study)).values())
    collect(plan, folders, Path("out"))
    for name in STUDY_TABLES:
        table = TABLES[name]
        frame = read_table(Path("out") / f"{table.name}.parquet", table)
        assert frame.equals(frame.sort(table.key))
        assert frame.select("model", "dataset").unique().height == 4
        assert read_provenance(Path("out") / f"{table.name}.parquet")["key"] == plan.tables_key
    with pytest.raises(UserError, match="tiny-instruct/knowledge"):
        collect(plan, folders[:3], Path("out"))
    other = Plan(tiny_study(samples=4, statistics={"draws": 101}))
    with pytest.raises(UserError, match="which is no pair of this study"):
        collect(other, folders, Path("out"))
