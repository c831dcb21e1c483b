"""Bootstrap over instructions.

Instructions, not samples, are drawn: all responses and controls of an instruction come and go
together, in every model, so that differences between cells are paired. A draw is a row of weights
(how often each instruction was drawn), and the means of all draws are one matrix product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def instruction_weights(
    instructions: Sequence[str], draws: int, seed: int, dataset: str
) -> dict[str, Array]:
    """Draw instructions with replacement.

    Parameters
    ----------
    instructions
        Every instruction of the dataset (:func:`instruction_of`), those of failed samples included:
        the same list gives the same draws for each model.
    draws
        Number of draws.
    seed, dataset
        Seed of the study and name of the dataset, so that datasets are drawn independently.

    Returns
    -------
    dict
        For each instruction how often each draw has it, shape (draws,).
    """
    unique = sorted(set(instructions))
    if not unique:
        return {}
    counts = seeded(seed, dataset).multinomial(
        len(unique), np.full(len(unique), 1 / len(unique)), size=draws
    )
    return dict(zip(unique, counts.T.astype(np.float64), strict=True))


def instruction_of(sample_id: pl.Expr) -> pl.Expr:
    """Return what tells instructions apart: an instruction that a source repeats is one.

    Its second sample has ``-2`` after the hash, so that rows of a table stay distinct; but drawn or
    dealt out by themselves, two equal instructions would count as independent.
    """
    return sample_id.str.replace(r"-\d+$", "")


def seeded(seed: int, name: str) -> np.random.Generator:
    """Return a generator of its own for each name."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, number])


def weighted_means(weights: Array, values: Array) -> Array:
    """Return the mean over samples of each draw.

    Parameters
    ----------
    weights
        How often each draw has each sample, shape (draws, samples).
    values
        Shape (samples, ...); NaN where a value is not defined, which leaves that sample out.

    Returns
    -------
    numpy.ndarray
        Shape (draws, ...); NaN where a draw has no defined value.
    """
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat)
    totals = weights @ np.where(known, flat, 0.0)
    # most tables have no gaps: one column of counts then serves all
    counts = weights @ (known[:, :1] if known.all() else known).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals / counts
    return means.reshape(len(weights), *values.shape[1:])


def interval(draws: Array, instructions: int, confidence: float) -> tuple[Array, Array]:
    """Return the expanded percentile interval over the first axis of `draws`.

    Plain percentiles are too narrow for few samples, as a normal interval with n in place of n - 1
    would be. The tails are moved out to where Student's distribution and that factor put them
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 4).

    NaN below two instructions, where there is nothing to resample. Draws without a value are left
    out.
    """
    if instructions < 2:
        return np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
    n = instructions
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(n / (n - 1))
    tails = [stats.norm.cdf(-reach), stats.norm.cdf(reach)]
    if np.isfinite(draws).all():
        low, high = np.quantile(draws, tails, axis=0)
        return low, high
    finite = np.where(np.isfinite(draws), draws, np.nan)
    empty = np.isnan(finite).all(axis=0)
    low, high = np.nanquantile(np.where(empty, 0.0, finite), tails, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
