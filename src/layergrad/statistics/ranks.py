"""Spectra by rank: the mean singular value at each rank, in each band of depth."""

from __future__ import annotations

import numpy as np
import polars as pl

from layergrad.config import StatisticsSettings
from layergrad.statistics.bands import bands
from layergrad.statistics.bootstrap import interval, weighted_means
from layergrad.statistics.curves import Array, Values, layer_mean, values
from layergrad.statistics.metrics import KEYS

# Ranks at about equal distances on a logarithmic axis, to the longest spectrum there is.
RANKS = sorted({r for power in range(13) for r in (2**power, 3 * 2**power // 2)})


def by_rank(spectra: pl.LazyFrame, where: str) -> Values | None:
    """Return the singular values of one cell at :data:`RANKS`.

    Parameters
    ----------
    spectra
        Rows of the table SPECTRA.
    where
        Name of the file, for messages.

    Returns
    -------
    Values
        The last axis is the rank, up to the longest spectrum; beyond the end of a spectrum its
        values are 0. None in an empty cell.
    """
    spectrum = pl.col("singular_values")
    columns = [
        spectrum.list.get(rank - 1, null_on_oob=True)
        .cast(pl.Float64)
        .fill_null(0.0)
        .alias(str(rank))
        for rank in RANKS
    ]
    frame = spectra.select(*KEYS, spectrum.list.len().alias("length"), *columns).collect(
        engine="streaming"
    )
    if frame.is_empty():
        return None
    names = [str(rank) for rank in RANKS if rank <= frame["length"].max()]
    return values(frame, names, where)


def ranks_table(
    found: Values, drawn: dict[str, Array], settings: StatisticsSettings
) -> pl.DataFrame:
    """Return the table RANKS of one cell, without the names of the cell."""
    samples, layers = found.array.shape[:2]
    weights = found.weights(drawn)
    parts = []
    for band, layers_of_band in bands(layers).items():
        part = found.array[:, layers_of_band]
        if part.shape[1] == 0:
            continue
        means = layer_mean(part, 1)
        low, high = interval(weighted_means(weights, means), found.independent, settings.confidence)
        mean = weighted_means(np.ones((1, samples)), means)[0]
        for place, projection in enumerate(found.projections):
            if np.isnan(mean[place]).all():
                continue  # no layer of the band has the projection
            columns = {"mean": mean[place], "low": low[place], "high": high[place]}
            parts.append(
                pl.DataFrame(columns).with_columns(
                    rank=pl.Series([int(rank) for rank in found.metrics]),
                    band=pl.lit(band),
                    projection=pl.lit(projection),
                    samples=pl.lit(samples),
                )
            )
    return pl.concat(parts).with_columns(pl.col("mean", "low", "high").fill_nan(None))
