"""A few numbers by projection from one file of spectra, for a terminal."""

from __future__ import annotations

import polars as pl

from layergrad.errors import UserError
from layergrad.statistics.curves import layer_mean, mad, mean_curve, values
from layergrad.statistics.metrics import measure

METRICS = ["nuclear_norm", "effective_rank", "frobenius_norm"]
ORDER = ["q", "k", "v", "o", "gate", "up", "down"]


def summary(spectra: pl.LazyFrame, where: str) -> list[tuple[str, float, float, float, float]]:
    """Return, for each projection, means over layers and samples.

    Parameters
    ----------
    spectra
        Rows of the table SPECTRA.
    where
        Name of the file, for messages.

    Returns
    -------
    list of tuple
        Projection, mean nuclear norm, MAD of the nuclear norm's curve over all layers, mean
        effective rank, mean Frobenius norm; in the order q, k, v, o, gate, up, down.
    """
    frame = measure(spectra, METRICS)
    if frame.is_empty():
        raise UserError(f"{where}: holds no spectra; its failures lie beside it")
    arranged = values(frame, METRICS, where)
    curve = mean_curve(arranged.array)
    nuclear, rank, frobenius = layer_mean(curve, 0).T
    steps = mad(curve)["all"][:, 0]
    rows = list(zip(arranged.projections, nuclear, steps, rank, frobenius, strict=True))
    return sorted(rows, key=lambda row: ORDER.index(row[0]))
