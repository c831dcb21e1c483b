"""Curves over the layers, their roughness (MAD) and the difference of two (RD).

Arrays are (..., layers, projections, metrics); leading axes are samples or bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from layergrad.errors import UserError
from layergrad.statistics.bands import bands
from layergrad.statistics.bootstrap import instruction_of, weighted_means

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """The metrics of one cell as an array.

    Attributes
    ----------
    rows, instructions
        Place in the source of each sample, ordered, and what tells its instruction from others.
    projections, metrics
        Names along the last two axes.
    array
        Shape (samples, layers, projections, metrics), NaN where a metric is not defined.
    """

    rows: list[int]
    instructions: list[str]
    projections: list[str]
    metrics: list[str]
    array: Array

    @property
    def independent(self) -> int:
        """Number of different instructions: what the bootstrap draws from."""
        return len(set(self.instructions))

    def weights(self, drawn: dict[str, Array]) -> Array:
        """Return the bootstrap weights of the samples, shape (draws, samples)."""
        return np.stack([drawn[name] for name in self.instructions], axis=1)

    def pick(self, rows: list[int]) -> Values:
        """Return the samples of the given rows."""
        place = {row: index for index, row in enumerate(self.rows)}
        chosen = [place[row] for row in rows]
        instructions = [self.instructions[index] for index in chosen]
        return Values(rows, instructions, self.projections, self.metrics, self.array[chosen])


def values(frame: pl.DataFrame, metrics: list[str], where: str) -> Values:
    """Arrange the measured spectra of one cell.

    Parameters
    ----------
    frame
        Result of :func:`layergrad.statistics.metrics.measure`, not empty.
    metrics
        Names of the metrics.
    where
        Name of the file, for messages.

    Raises
    ------
    UserError
        If a sample lacks a layer or a projection, or has one twice.
    """
    instruction = instruction_of(pl.col("sample_id")).alias("instruction")
    samples = frame.select("row", instruction).unique().sort("row")
    layers = frame["layer"].max() + 1
    projections = sorted(frame["projection"].unique())
    shape = (len(samples), layers, len(projections))
    frame = frame.sort("row", "layer", "projection")
    if (
        frame.height != np.prod(shape)
        or frame.select("row", "layer", "projection").is_duplicated().any()
    ):
        raise UserError(
            f"{where}: has {frame.height} spectra, but {shape[0]} samples x {shape[1]} layers x "
            f"{shape[2]} projections make {np.prod(shape)}: delete it and extract it again"
        )
    array = frame.select(metrics).to_numpy().reshape(*shape, len(metrics))
    return Values(
        samples["row"].to_list(), samples["instruction"].to_list(), projections, metrics, array
    )


def jointly_defined(*arrays: Array) -> list[Array]:
    """Return arrays with NaN in all wherever one is not defined, so that means stay paired."""
    known = np.all([np.isfinite(array) for array in arrays], axis=0)
    return [np.where(known, array, np.nan) for array in arrays]


def mean_curve(array: Array) -> Array:
    """Return the mean over the samples, first axis; undefined values are left out."""
    return weighted_means(np.ones((1, len(array))), array)[0]


def mad(curve: Array) -> dict[str, Array]:
    r"""Return the mean absolute difference of consecutive layers, in each band.

    :math:`\frac{1}{N-1} \sum_i |c_{i+1} - c_i|` over the layers of the band (Li et al. 2025): a
    step that crosses the border of two bands counts in ``all`` alone.

    Parameters
    ----------
    curve
        Shape (..., layers, projections, metrics).

    Returns
    -------
    dict
        For each band an array (..., projections, metrics), NaN in a band of fewer than two layers.
    """
    steps = np.abs(np.diff(curve, axis=-3))
    result = {}
    for band, layers in bands(curve.shape[-3]).items():
        inside = steps[..., layers.start : max(layers.stop - 1, layers.start), :, :]
        undefined = np.full((*curve.shape[:-3], *curve.shape[-2:]), np.nan)
        result[band] = inside.mean(axis=-3) if inside.shape[-3] else undefined
    return result


def relative_difference(wrong: Array, correct: Array) -> Array:
    """Return (wrong - correct) / correct of two curves, NaN where `correct` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(correct != 0, (wrong - correct) / correct, np.nan)
