"""Spectra by rank, against averages taken by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from layergrad.config import StatisticsSettings
from layergrad.plan import Plan
from layergrad.statistics.bootstrap import instruction_weights
from layergrad.statistics.ranks import RANKS, by_rank, ranks_table
from tests.synthetic import cell_spectra, tiny_study

EFFECTS = {
    "scale": {"detailed": 1.0},
    "tokens": {"detailed": 6},
    "irrelevant": {},
    "roughness": {},
    "length_slope": 0.0,
    "spread": 0.2,
    "noise": 0.1,
}


@pytest.fixture(scope="module")
def frame():
    study = tiny_study(samples=4)
    cell = next(c for c in Plan(study).all_cells if c.response == "detailed")
    return cell_spectra(cell, study, 0, 6, 16, 1.0, EFFECTS)


@pytest.fixture(scope="module")
def table(frame):
    settings = StatisticsSettings(draws=200)
    drawn = instruction_weights(sorted(set(frame["sample_id"])), 200, 0, "set")
    return ranks_table(by_rank(frame.lazy(), "here"), drawn, settings)


def at(frame: pl.DataFrame, projection: str, layers: list[int], rank: int) -> float:
    rows = frame.filter(pl.col("projection") == projection, pl.col("layer").is_in(layers))
    found = [s[rank - 1] if len(s) >= rank else 0.0 for s in rows["singular_values"].to_list()]
    return float(np.mean(found))


@pytest.mark.parametrize(("band", "layers"), [("all", [0, 1, 2, 3, 4, 5]), ("middle", [2, 3])])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_mean_is_over_samples_and_layers_of_the_band(frame, table, band, layers, rank):
    row = table.filter(projection="v", band=band, rank=rank)
    assert row["mean"].item() == pytest.approx(at(frame, "v", layers, rank), rel=1e-9)
    assert row["low"].item() <= row["mean"].item() <= row["high"].item()
    assert row["samples"].item() == 4


def test_values_beyond_the_end_of_a_spectrum_are_zero(frame, table):
    lengths = frame["singular_values"].list.len()
    assert lengths.min() < lengths.max()
    beyond = [rank for rank in RANKS if lengths.min() < rank <= lengths.max()]
    for rank in beyond:
        row = table.filter(projection="q", band="all", rank=rank)
        assert row["mean"].item() == pytest.approx(at(frame, "q", list(range(6)), rank), rel=1e-9)
    assert table["rank"].max() <= lengths.max()


def test_an_empty_cell_has_no_ranks(frame):
    assert by_rank(frame.head(0).lazy(), "here") is None
