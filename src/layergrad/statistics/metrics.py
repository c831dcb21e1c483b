r"""Metrics: numbers from the spectrum of one gradient, as Polars expressions.

A metric is a function of the list column of singular values :math:`s` (float64, descending) that
returns one number a row. It may also use the columns ``loss`` and ``response_tokens`` of the
sample. Where a metric is not defined, as a ratio is for a gradient of zero, its value is null.

Besides those below the configuration can name ``energy_topK`` for any K, a function of a file of
the user's (``my_metrics.py:tail_share``), and ``sum_loss.METRIC`` for any of them.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from layergrad.config import SUM_LOSS, metric_label
from layergrad.errors import UserError

Metric = Callable[[pl.Expr], pl.Expr]

SIGNIFICANT_DIGITS = 10
KEYS = ["sample_id", "row", "layer", "projection", "tokens", "response_tokens", "loss"]


def nuclear_norm(spectrum: pl.Expr) -> pl.Expr:
    r"""Nuclear norm, :math:`\sum_i s_i` (Li et al. 2025, arXiv 2410.23743)."""
    return spectrum.list.sum()


def sigma1_ratio(spectrum: pl.Expr) -> pl.Expr:
    r"""Share of the largest singular value, :math:`s_1 / \sum_i s_i` (Li et al. 2025)."""
    return spectrum.list.max() / spectrum.list.sum()


def effective_rank(spectrum: pl.Expr) -> pl.Expr:
    r"""Effective rank, :math:`\exp(-\sum_i p_i \ln p_i)` with :math:`p = s / \sum s`.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality". Computed as
    :math:`\exp(\ln S - \frac{1}{S} \sum s_i \ln s_i)`, :math:`S = \sum s`; zeros add nothing.
    """
    s = pl.element()
    products = spectrum.list.eval(pl.when(s > 0).then(s * s.log()).otherwise(0.0))
    total = spectrum.list.sum()
    return (total.log() - products.list.sum() / total).exp()


def frobenius_norm(spectrum: pl.Expr) -> pl.Expr:
    r"""Frobenius norm, :math:`\sqrt{\sum_i s_i^2}`."""
    return _power_sum(spectrum, 2).sqrt()


def spectral_norm(spectrum: pl.Expr) -> pl.Expr:
    r"""Spectral norm, :math:`s_1`."""
    return spectrum.list.max()


def stable_rank(spectrum: pl.Expr) -> pl.Expr:
    r"""Stable rank, :math:`\sum s_i^2 / s_1^2` (Rudelson and Vershynin 2007)."""
    return _power_sum(spectrum, 2) / spectrum.list.max().pow(2)


def participation_ratio(spectrum: pl.Expr) -> pl.Expr:
    r"""Participation ratio of the energies, :math:`(\sum s_i^2)^2 / \sum s_i^4`."""
    return _power_sum(spectrum, 2).pow(2) / _power_sum(spectrum, 4)


def nuclear_rank(spectrum: pl.Expr) -> pl.Expr:
    r"""Squared ratio of nuclear to Frobenius norm, :math:`(\sum s_i)^2 / \sum s_i^2`."""
    return spectrum.list.sum().pow(2) / _power_sum(spectrum, 2)


def loss_normalised_nuclear_norm(spectrum: pl.Expr) -> pl.Expr:
    r"""Nuclear norm over the sample's loss, :math:`\sum s_i / L` (in the code of Li et al.)."""
    return spectrum.list.sum() / pl.col("loss")


def energy_top(spectrum: pl.Expr, k: int) -> pl.Expr:
    r"""Share of the k largest in the energy, :math:`\sum_{i \le k} s_i^2 / \sum s_i^2`."""
    return _power_sum(spectrum.list.head(k), 2) / _power_sum(spectrum, 2)


METRICS: dict[str, Metric] = {
    metric.__name__: metric
    for metric in (
        nuclear_norm,
        sigma1_ratio,
        effective_rank,
        frobenius_norm,
        spectral_norm,
        stable_rank,
        participation_ratio,
        nuclear_rank,
        loss_normalised_nuclear_norm,
    )
}


def find_metric(name: str) -> Metric:
    """Return the metric that the configuration names.

    Parameters
    ----------
    name
        One of :data:`METRICS`; ``energy_topK``; ``FILE.py:FUNCTION``, a documented function of a
        spectrum; or ``sum_loss.`` before any of these: the same of the gradient of the sum of the
        losses of the response tokens instead of their mean, which is that of the spectrum times
        the number of response tokens.

    Raises
    ------
    UserError
        If there is no such metric.
    """
    if name.startswith(SUM_LOSS):
        metric = find_metric(name.removeprefix(SUM_LOSS))
        return lambda spectrum: metric(spectrum * pl.col("response_tokens"))
    if found := re.fullmatch(r"energy_top([1-9]\d*)", name):
        return functools.partial(energy_top, k=int(found[1]))
    if ":" in name:
        return _user_metric(*name.rsplit(":", 1))
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}; known: {', '.join(sorted(METRICS))}")
    return METRICS[name]


def _user_metric(file: str, function: str) -> Metric:
    if not Path(file).is_file():
        raise UserError(f"metric {file}:{function}: {file}: no such file")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"metric {file}:{function}: {type(error).__name__}: {error}") from error
    metric = getattr(module, function, None)
    if not callable(metric):
        raise UserError(f"metric {file}:{function}: {file} has no function {function}")
    if not inspect.getdoc(metric):
        raise UserError(
            f"metric {file}:{function}: has no docstring; say what it measures, with its formula"
        )
    return metric


def measure(spectra: pl.LazyFrame, metrics: list[str], reduction: str = "mean") -> pl.DataFrame:
    """Return the metrics of the spectra of one cell, one column a metric.

    Parameters
    ----------
    spectra
        Rows of the table SPECTRA.
    metrics
        Names of the metrics as in the configuration.
    reduction
        Of the loss that the spectra are of: with ``sum``, ``sum_loss.METRIC`` is the metric itself.

    Returns
    -------
    polars.DataFrame
        ``sample_id, row, layer, projection, tokens, response_tokens, loss`` and one float64 column
        a metric under its :func:`label`, null where it is not defined; sorted by row, layer and
        projection. The spectra are read in chunks and never held all at once.

    Raises
    ------
    UserError
        If a metric is unknown, or one of the user's fails or gives something else than a number.
    """
    spectrum = pl.col("singular_values").cast(pl.List(pl.Float64))
    frame = spectra.select(*KEYS, *(_column(name, spectrum, reduction) for name in metrics))
    try:
        frame = frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"metrics {', '.join(metrics)}: {error}") from error
    return frame.sort("row", "layer", "projection")


def _column(name: str, spectrum: pl.Expr, reduction: str) -> pl.Expr:
    metric = find_metric(name.removeprefix(SUM_LOSS) if reduction == "sum" else name)
    try:
        value = metric(spectrum)
    except Exception as error:
        raise UserError(f"metric {name}: {type(error).__name__}: {error}") from error
    if not isinstance(value, pl.Expr):
        raise UserError(
            f"metric {name}: must return a Polars expression of the spectrum column, returned "
            f"{type(value).__name__}"
        )
    return rounded(defined(value)).alias(metric_label(name))


def defined(value: pl.Expr) -> pl.Expr:
    """Return float64 values with null for whatever is not a finite number."""
    value = value.cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


def rounded(value: pl.Expr) -> pl.Expr:
    """Round to ten significant digits: beyond them the order of a summation shows."""
    return value.round_sig_figs(SIGNIFICANT_DIGITS)


def _power_sum(spectrum: pl.Expr, power: int) -> pl.Expr:
    return spectrum.list.eval(pl.element().pow(power)).list.sum()
