r"""Metrics: numbers from the spectrum of one gradient, as Polars expressions.

A metric is a function of the list column of singular values :math:`s` (float64, descending) that
returns one float64 a row. It may also use the columns ``loss`` and ``response_tokens`` of the
sample. Where a metric is not defined, as a ratio is for a gradient of zero, its value is null.
"""

from __future__ import annotations

import polars as pl

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


METRICS = {
    metric.__name__: metric
    for metric in (nuclear_norm, sigma1_ratio, effective_rank, frobenius_norm)
}


def measure(spectra: pl.LazyFrame, metrics: list[str]) -> pl.DataFrame:
    """Return the metrics of the spectra of one cell, one column a metric.

    Parameters
    ----------
    spectra
        Rows of the table SPECTRA.
    metrics
        Names of the metrics.

    Returns
    -------
    polars.DataFrame
        ``sample_id, row, layer, projection, tokens, response_tokens, loss`` and one float64 column
        a metric, null where it is not defined; sorted by row, layer and projection. The spectra
        are read in chunks and never held all at once.
    """
    spectrum = pl.col("singular_values").cast(pl.List(pl.Float64))
    columns = [rounded(defined(METRICS[name](spectrum))).alias(name) for name in metrics]
    frame = spectra.select(*KEYS, *columns).collect(engine="streaming")
    return frame.sort("row", "layer", "projection")


def defined(value: pl.Expr) -> pl.Expr:
    """Return float64 values with null for whatever is not a finite number."""
    value = value.cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


def rounded(value: pl.Expr) -> pl.Expr:
    """Round to ten significant digits: beyond them the order of a summation shows."""
    return value.round_sig_figs(SIGNIFICANT_DIGITS)


def _power_sum(spectrum: pl.Expr, power: int) -> pl.Expr:
    return spectrum.list.eval(pl.element().pow(power)).list.sum()
