"""Metrics of your own: name them in config.yaml as ``examples/my_metrics.py:tail_share``.

A metric is a function with a docstring. It gets the column of spectra, lists of singular values in
float64, largest first, and returns a Polars expression with one number a row. It may also use the
columns ``loss`` and ``response_tokens`` of the sample. Spectra are stored: nothing is extracted
anew, and the metric appears in every table and figure under the name of its function.
"""

import polars as pl


def tail_share(spectrum: pl.Expr) -> pl.Expr:
    """Share of the nuclear norm outside the ten largest singular values, 1 - sum_10 s / sum s."""
    return 1 - spectrum.list.head(10).list.sum() / spectrum.list.sum()


def nuclear_norm_per_token(spectrum: pl.Expr) -> pl.Expr:
    """Nuclear norm over the square root of the response tokens, sum s / sqrt(T)."""
    return spectrum.list.sum() / pl.col("response_tokens").sqrt()
