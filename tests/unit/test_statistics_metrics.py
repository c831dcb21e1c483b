"""Metrics beyond the four of the paper: formulas by hand, and metrics of the user's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from layergrad import config
from layergrad.config import Study, metric_label
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.statistics.metrics import METRICS, find_metric, measure
from layergrad.statistics.pair import aggregate
from layergrad.statistics.study import collect
from layergrad.tables import SPECTRA, scan_table, write_table
from tests.synthetic import tiny_study, write_study_spectra

ROOT = Path(__file__).parents[2]
S = np.array([4.0, 2.0, 1.0])


@pytest.fixture
def spectra(tmp_path) -> pl.LazyFrame:
    frame = pl.DataFrame(
        {
            **{name: ["x"] for name in ("model", "dataset", "response", "control", "sample_id")},
            **{name: [0] for name in ("row", "layer", "tokens")},
            "response_tokens": [9],
            "loss": [0.5],
            "projection": ["q"],
            "content": [""],
            "singular_values": [S.tolist()],
        }
    )
    write_table(frame, SPECTRA, tmp_path / "spectra.parquet", {})
    return scan_table([tmp_path / "spectra.parquet"], SPECTRA)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spectral_norm", 4),
        ("stable_rank", 21 / 16),
        ("participation_ratio", 21**2 / (4**4 + 2**4 + 1)),
        ("nuclear_rank", 7**2 / 21),
        ("energy_top1", 16 / 21),
        ("energy_top2", 20 / 21),
        ("energy_top50", 1),
        ("loss_normalised_nuclear_norm", 7 / 0.5),
        ("sum_loss.nuclear_norm", 7 * 9),
        ("sum_loss.frobenius_norm", np.sqrt(21) * 9),
        ("sum_loss.sigma1_ratio", 4 / 7),
    ],
)
def test_formula(spectra, name, expected):
    assert measure(spectra, [name])[name][0] == pytest.approx(expected, rel=1e-9)


def test_sum_loss_of_a_sum_loss_study_is_the_metric_itself(spectra):
    found = measure(spectra, ["nuclear_norm", "sum_loss.nuclear_norm"], reduction="sum")
    assert found["sum_loss.nuclear_norm"][0] == found["nuclear_norm"][0] == 7


def test_configuration_knows_the_metrics_that_there_are():
    assert set(config.METRICS) == set(METRICS)
    study = tiny_study(statistics={"metrics": [*METRICS, "energy_top3", "sum_loss.stable_rank"]})
    assert all(find_metric(name) for name in study.statistics.metrics)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["nuclear_nrom"], "did you mean 'nuclear_norm'"),
        (["energy_top0"], "unknown metric"),
        (["a.py:f", "b.py:f"], "a.py:f and b.py:f have the same name in tables"),
        (["a.py:nuclear_norm"], "a.py:nuclear_norm and nuclear_norm have the same name"),
        (["nuclear_norm", "nuclear_norm"], "listed twice: nuclear_norm"),
    ],
)
def test_wrong_names_are_refused_with_the_configuration(metrics, message):
    with pytest.raises(ValueError, match=message):
        tiny_study(statistics={"metrics": metrics})


def example(name: str) -> str:
    return f"{ROOT / 'examples/my_metrics.py'}:{name}"


def test_a_metric_of_the_users(spectra):
    names = [example("tail_share"), example("nuclear_norm_per_token")]
    found = measure(spectra, names)
    assert found["tail_share"][0] == pytest.approx(0)
    assert found["nuclear_norm_per_token"][0] == pytest.approx(7 / 3)
    assert metric_label(f"sum_loss.{names[0]}") == "sum_loss.tail_share"


def test_the_metric_of_the_manual_works_as_it_stands(spectra, tmp_path):
    manual = (ROOT / "docs/statistics.md").read_text()
    code = re.search(r"```python\n(.*?)```", manual, re.DOTALL)[1]
    (tmp_path / "manual.py").write_text(code)
    found = measure(spectra, [f"{tmp_path / 'manual.py'}:tail_share"])
    expected = measure(spectra, [example("tail_share")])
    assert found["tail_share"].to_list() == expected["tail_share"].to_list() == [0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(spectrum):\n    return spectrum.list.sum()", "has no docstring"),
        ("def g(spectrum):\n    'g'", "has no function f"),
        ("def f(spectrum):\n    'doc'\n    return 3", "must return a Polars expression"),
        ("def f(spectrum):\n    'doc'\n    return spectrum.list.nope()", "AttributeError: .*nope"),
        ("def f(spectrum):\n    'doc'\n    return spectrum.str.len_chars()", "metrics .*m.py:f"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
    ],
)
def test_faults_of_a_users_metric_are_named(spectra, tmp_path, code, message):
    (tmp_path / "m.py").write_text(code)
    with pytest.raises(UserError, match=message):
        measure(spectra, [f"{tmp_path / 'm.py'}:f"])


def test_a_missing_file_of_metrics_is_named(spectra):
    with pytest.raises(UserError, match=r"none.py: no such file"):
        measure(spectra, ["none.py:f"])


def test_a_users_metric_reaches_the_tables_and_its_content_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(Path(ROOT / "examples/my_metrics.py").read_text())
    settings = {"metrics": ["nuclear_norm", "mine.py:tail_share"], "draws": 100}
    settings["claim_metric"] = "mine.py:nuclear_norm_per_token"
    study: Study = tiny_study(
        models=("m",), datasets=("gsm_symbolic",), samples=6, statistics=settings
    )
    plan = Plan(study)
    (index,) = write_study_spectra(tmp_path, study)
    before = plan.statistics_key("m", "gsm_symbolic")
    aggregate(plan, "m", "gsm_symbolic", index, Path(plan.statistics_folder("m", "gsm_symbolic")))
    collect(plan, None, Path("data/statistics"))
    curves = pl.read_parquet("data/statistics/curves.parquet")
    assert set(curves["metric"]) == {"nuclear_norm", "tail_share"}
    found = pl.read_parquet("data/statistics/findings.parquet")
    assert set(found["metric"]) == {"nuclear_norm_per_token"}
    assert found.filter(claim=1, variant="raw")["effect"].is_not_null().all()
    Path("mine.py").write_text(Path("mine.py").read_text() + "\n# changed\n")
    assert Plan(study).statistics_key("m", "gsm_symbolic") != before


def test_the_example_script_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tiny_study(models=("m",), datasets=("gsm_symbolic",), samples=5)
    plan = Plan(study)
    (index,) = write_study_spectra(tmp_path, study)
    aggregate(plan, "m", "gsm_symbolic", index, Path(plan.statistics_folder("m", "gsm_symbolic")))
    collect(plan, None, Path("data/statistics"))
    Path("config.yaml").write_text(study.model_dump_json())
    done = subprocess.run(
        [sys.executable, ROOT / "examples/results.py"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "detailed" in done.stdout
