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
        Shape (samples, layers, projections, metrics), NaN where a metric is not defined. Layers
        have their true numbers; those that the model has no such projection in are NaN throughout.
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

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether a layer has a projection, shape (layers, projections)."""
        return ~np.isnan(self.array).all(axis=(0, 3))

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
        If a sample lacks a projection of a layer that another sample has, or has one twice.
    """
    instruction = instruction_of(pl.col("sample_id")).alias("instruction")
    samples = frame.select("row", instruction).unique().sort("row")
    places = frame.select("layer", "projection").unique()
    projections = sorted(frame["projection"].unique())
    frame = frame.sort("row", "layer", "projection")
    if (
        frame.height != len(samples) * len(places)
        or frame.select("row", "layer", "projection").is_duplicated().any()
    ):
        raise UserError(
            f"{where}: has {frame.height} spectra, but {len(samples)} samples x {len(places)} "
            f"places (layer and projection) make {len(samples) * len(places)}: delete it and "
            "extract it again"
        )
    # hybrid models have layers without attention, and layers that take keys and values of others
    array = np.full(
        (len(samples), places["layer"].max() + 1, len(projections), len(metrics)), np.nan
    )
    ordered = places.sort("layer", "projection")
    columns = [projections.index(name) for name in ordered["projection"]]
    found = frame.select(metrics).to_numpy().reshape(len(samples), len(places), len(metrics))
    array[:, ordered["layer"].to_numpy(), columns] = found
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


def layer_mean(array: Array, axis: int) -> Array:
    """Return the mean over the layers.

    Layers without any value along the axes before `axis` (samples or draws) are left out: the model
    has no such projection there. A value that is undefined in some samples makes their mean NaN.
    """
    absent = np.isnan(array).all(axis=tuple(range(axis)), keepdims=True)
    if not absent.any():
        return array.mean(axis=axis)
    with np.errstate(invalid="ignore"):
        return np.where(absent, 0.0, array).sum(axis=axis) / (~absent).sum(axis=axis)


def mad(curve: Array) -> dict[str, Array]:
    r"""Return the mean absolute difference of consecutive layers, in each band.

    :math:`\frac{1}{N-1} \sum_i |c_{i+1} - c_i|` over the layers of the band (Li et al. 2025): a
    step that crosses the border of two bands counts in ``all`` alone. Layers that the model has no
    such projection in are passed over: a step goes from one measured layer to the next.

    Parameters
    ----------
    curve
        Shape (..., layers, projections, metrics).

    Returns
    -------
    dict
        For each band an array (..., projections, metrics), NaN in a band of fewer than two layers.
    """
    count = curve.shape[-3]
    leading = tuple(range(curve.ndim - 3))
    present = ~np.isnan(curve).all(axis=leading)
    if present.all():
        return {band: _mean_step(curve[..., part, :, :]) for band, part in bands(count).items()}
    result = {}
    for band, part in bands(count).items():
        result[band] = np.full((*curve.shape[:-3], *curve.shape[-2:]), np.nan)
        for place in np.ndindex(curve.shape[-2:]):
            measured = [n for n in range(part.start, part.stop) if present[n, *place]]
            result[band][..., *place] = _mean_step(curve[..., *place][..., measured, None, None])[
                ..., 0, 0
            ]
    return result


def _mean_step(curve: Array) -> Array:
    """Return the mean absolute step along the layers, NaN if there is none."""
    if curve.shape[-3] < 2:
        return np.full((*curve.shape[:-3], *curve.shape[-2:]), np.nan)
    return np.abs(np.diff(curve, axis=-3)).mean(axis=-3)


def relative_difference(wrong: Array, correct: Array) -> Array:
    """Return (wrong - correct) / correct of two curves, NaN where `correct` is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(correct != 0, (wrong - correct) / correct, np.nan)
