"""Statistics of models whose layers do not all have every projection."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from layergrad.config import StatisticsSettings
from layergrad.errors import UserError
from layergrad.statistics.bootstrap import instruction_weights
from layergrad.statistics.curves import layer_mean, mad, mean_curve, values
from layergrad.statistics.discrimination import classifier_scores
from layergrad.statistics.pair import _curves_and_mad, _rd
from layergrad.statistics.ranks import ranks_table

# attention in layers 1, 4, 5 and 8; layers 5 and 8 take keys from layer 4
PLACES = [(1, "q"), (1, "k"), (4, "q"), (4, "k"), (5, "q"), (8, "q")]
SETTINGS = StatisticsSettings(draws=100)


def hybrid(places=PLACES, samples: int = 6, factor: float = 1.0):
    rows = [
        {
            "sample_id": f"s{row}",
            "row": row,
            "layer": layer,
            "projection": projection,
            "norm": factor * (10.0 * layer + row + (projection == "k")),
        }
        for row in range(samples)
        for layer, projection in places
    ]
    return values(pl.DataFrame(rows), ["norm"], "a file")


def drawn(found):
    return instruction_weights(found.instructions, SETTINGS.draws, 0, "d")


def test_layers_keep_their_true_numbers():
    found = hybrid()
    curves, _ = _curves_and_mad(found, drawn(found), SETTINGS)
    assert sorted(curves.select("layer", "projection").iter_rows()) == sorted(PLACES)
    of_q = curves.filter(pl.col("projection") == "q").sort("layer")
    assert of_q["mean"].to_list() == [12.5, 42.5, 52.5, 82.5]
    assert curves["mean"].null_count() == 0


def test_a_step_of_mad_goes_from_one_measured_layer_to_the_next():
    found = hybrid()
    steps = mad(mean_curve(found.array))
    k, q = (found.projections.index(p) for p in "kq")
    assert steps["all"][q, 0] == pytest.approx((30 + 10 + 30) / 3)
    assert steps["all"][k, 0] == pytest.approx(30)
    # thirds of nine layers: only the middle one has two layers with q, none has two with k
    assert steps["middle"][q, 0] == pytest.approx(10)
    assert np.isnan(steps["early"][q, 0]) and np.isnan(steps["middle"][k, 0])
    of_samples = mad(found.array)["all"]
    assert of_samples.shape == (6, 2, 1) and of_samples[:, q, 0] == pytest.approx(70 / 3)


def test_without_gaps_mad_is_what_it_was():
    curve = np.random.default_rng(0).random((3, 12, 2, 2))
    steps = np.abs(np.diff(curve, axis=1))
    assert mad(curve)["all"] == pytest.approx(steps.mean(axis=1))
    assert mad(curve)["middle"] == pytest.approx(steps[:, 4:7].mean(axis=1))


def test_means_over_layers_leave_out_layers_without_the_projection():
    found = hybrid()
    q, k = (layer_mean(found.array, 1)[0, found.projections.index(p), 0] for p in "qk")
    assert (q, k) == (pytest.approx(45.0), pytest.approx(26.0))
    gap = found.array.copy()
    gap[0, 4] = np.nan  # undefined in one sample only: its mean is not defined
    assert np.isnan(layer_mean(gap, 1)[0]).all() and np.isfinite(layer_mean(gap, 1)[1:]).all()


def test_relative_differences_have_no_rows_for_layers_without_attention():
    wrong, correct = hybrid(factor=1.5), hybrid()
    tables = _rd(wrong, correct, drawn(correct), SETTINGS)
    assert sorted(tables["rd"].select("layer", "projection").iter_rows()) == sorted(PLACES)
    assert tables["rd_summary"]["value"].to_list() == pytest.approx([0.5, 0.5])


def test_ranks_have_no_rows_for_bands_without_the_projection():
    table = ranks_table(
        values(
            pl.DataFrame(
                [
                    {"sample_id": f"s{r}", "row": r, "layer": n, "projection": p, "1": 2.0 + r}
                    for r in range(3)
                    for n, p in PLACES
                ]
            ),
            ["1"],
            "a file",
        ),
        drawn(hybrid(samples=3)),
        SETTINGS,
    )
    assert set(table.filter(pl.col("band") == "late")["projection"]) == {"q"}
    assert table["mean"].null_count() == 0


def test_classifiers_see_the_layers_that_have_the_projection():
    generator = np.random.default_rng(1)
    correct = np.where(np.isnan(hybrid(samples=40).array[..., 0]), np.nan, 1.0)
    wrong = correct * np.exp(1 + generator.normal(size=correct.shape) * 0.1)
    correct = correct * np.exp(generator.normal(size=correct.shape) * 0.1)
    first, second, _ = classifier_scores(correct, wrong, [f"s{i}" for i in range(40)], 0)
    assert np.isfinite(first).all() and (second > first).mean() > 0.99


def test_a_sample_that_lacks_a_layer_is_refused():
    frame = pl.DataFrame(
        [
            {"sample_id": f"s{r}", "row": r, "layer": n, "projection": p, "norm": 1.0}
            for r in range(3)
            for n, p in PLACES
            if (r, n, p) != (2, 4, "k")
        ]
    )
    with pytest.raises(UserError, match="17 spectra, but 3 samples x 6 places"):
        values(frame, ["norm"], "a file")
