"""Spectra of the gradients in each layer of a language model, as a reproducible workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    table: str, study: str | Path = "config.yaml", root: str | Path = ".", lazy: bool = False
) -> pl.DataFrame | pl.LazyFrame:
    """Return a table of a study's results, for a notebook.

    Parameters
    ----------
    table
        ``metrics`` (one row a sample, layer, projection and metric), ``curves``, ``mad``, ``rd``,
        ``rd_summary``, ``samples``, ``lengths``, ``discrimination``, ``estimates`` or ``findings``.
    study
        Configuration of the study, below `root`.
    root
        Folder of the project: the results lie in its ``data``.
    lazy
        Return a LazyFrame: the metrics of a large study do not fit into memory.

    Returns
    -------
    polars.DataFrame or polars.LazyFrame
        ``.to_pandas()`` of the former gives a pandas frame.

    Raises
    ------
    UserError
        If there is no such table, or it is missing or not that of this configuration.

    Examples
    --------
    >>> import layergrad
    >>> mad = layergrad.load("mad")  # doctest: +SKIP
    >>> mad.filter(band="all", metric="nuclear_norm").to_pandas()  # doctest: +SKIP
    """
    from layergrad.statistics.study import load_table

    return load_table(table, study, root, lazy)
