"""The schema of every table that crosses a phase, checked on write and on read.

Rows are sorted by the table's key before they are written, so that equal content gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from layergrad.errors import UserError
from layergrad.provenance import PARQUET_KEY, atomic


@dataclass(frozen=True)
class Table:
    """Name, columns and sort key of a table."""

    name: str
    schema: dict[str, pl.DataType]
    key: tuple[str, ...]


_CELL = {"model": pl.String, "dataset": pl.String, "response": pl.String, "control": pl.String}
_SAMPLE = {**_CELL, "sample_id": pl.String, "row": pl.Int32}
_PLACE = {"layer": pl.Int16, "projection": pl.String}
_CELL_KEY = ("model", "dataset", "response", "control")

DATASET = Table(
    "dataset",
    {
        "sample_id": pl.String,
        "row": pl.Int32,
        "dataset": pl.String,
        "response": pl.String,
        "control": pl.String,
        "instruction": pl.String,
        "response_text": pl.String,
    },
    ("dataset", "response", "control", "row"),
)
SPECTRA = Table(
    "spectra",
    {
        **_SAMPLE,
        **_PLACE,
        "tokens": pl.Int32,
        "response_tokens": pl.Int32,
        "loss": pl.Float64,
        "singular_values": pl.List(pl.Float32),
        # identifies model, settings and tokens: equal keys mean equal spectra, so rows are reused
        "content": pl.String,
    },
    (*_CELL_KEY, "row", "layer", "projection"),
)
FAILURES = Table(
    "failures", {**_SAMPLE, "reason": pl.String, "detail": pl.String}, (*_CELL_KEY, "row")
)
AUDIT = Table(
    "audit",
    {
        "dataset": pl.String,
        "response": pl.String,
        "control": pl.String,
        "model": pl.String,  # whose tokens are counted; empty for what is seen in the text alone
        "measure": pl.String,
        "value": pl.Float64,
    },
    ("dataset", "response", "control", "model", "measure"),
)
# Cosine of a sample's gradient and that of another response, or control, to the same instruction.
SIMILARITY = Table(
    "similarity",
    {
        **_SAMPLE,
        "other_response": pl.String,
        "other_control": pl.String,
        **_PLACE,
        "cosine": pl.Float64,
    },
    (*_CELL_KEY, "row", "other_response", "other_control", "layer", "projection"),
)
METRICS = Table(
    "metrics",
    {
        **_SAMPLE,
        **_PLACE,
        "tokens": pl.Int32,
        "response_tokens": pl.Int32,
        "loss": pl.Float64,
        "metric": pl.String,
        "value": pl.Float64,
    },
    (*_CELL_KEY, "row", "layer", "projection", "metric"),
)
_INTERVAL = {"low": pl.Float64, "high": pl.Float64}
CURVES = Table(
    "curves",
    {
        **_CELL,
        **_PLACE,
        "depth": pl.Float64,
        "metric": pl.String,
        "mean": pl.Float64,
        **_INTERVAL,
        "samples": pl.Int32,
    },
    (*_CELL_KEY, "projection", "metric", "layer"),
)
MAD = Table(
    "mad",
    {
        **_CELL,
        "projection": pl.String,
        "metric": pl.String,
        "band": pl.String,
        # MAD of the mean curve, the paper's, with its interval
        "value": pl.Float64,
        **_INTERVAL,
        "mean_of_sample_mads": pl.Float64,
        "mean_of_sample_mads_low": pl.Float64,
        "mean_of_sample_mads_high": pl.Float64,
        "samples": pl.Int32,
    },
    (*_CELL_KEY, "projection", "metric", "band"),
)
RD = Table(
    "rd",
    {
        **_CELL,
        **_PLACE,
        "metric": pl.String,
        "signed": pl.Float64,
        "absolute": pl.Float64,
        # interval of the signed difference
        **_INTERVAL,
        "samples": pl.Int32,
    },
    (*_CELL_KEY, "projection", "metric", "layer"),
)
RD_SUMMARY = Table(
    "rd_summary",
    {
        **_CELL,
        "projection": pl.String,
        "metric": pl.String,
        # mean over the layers of the absolute difference, and the layers where it is largest
        "value": pl.Float64,
        **_INTERVAL,
        "top_layers": pl.List(pl.Int16),
        "samples": pl.Int32,
    },
    (*_CELL_KEY, "projection", "metric"),
)
SAMPLES = Table(
    "samples",
    {
        **_CELL,
        "samples": pl.Int32,
        "failed": pl.Int32,
        # "no_response_tokens: 3; too_long: 1", empty if none failed
        "reasons": pl.String,
        # means over the samples, null in an empty cell
        "tokens": pl.Float64,
        "response_tokens": pl.Float64,
        "loss": pl.Float64,
    },
    _CELL_KEY,
)
LENGTHS = Table(
    "lengths",
    {
        **_SAMPLE,
        "projection": pl.String,
        "metric": pl.String,
        "response_tokens": pl.Int32,
        "loss": pl.Float64,
        # mean over the layers
        "value": pl.Float64,
    },
    (*_CELL_KEY, "row", "projection", "metric"),
)
RANKS = Table(
    "ranks",
    {
        **_CELL,
        "projection": pl.String,
        "band": pl.String,
        # place in the descending spectrum, from 1, and the singular value there: the mean over the
        # layers of the band and the samples, 0 beyond the end of a spectrum
        "rank": pl.Int32,
        "mean": pl.Float64,
        **_INTERVAL,
        "samples": pl.Int32,
    },
    (*_CELL_KEY, "projection", "band", "rank"),
)
ESTIMATES = Table(
    "estimates",
    {
        "model": pl.String,
        "dataset": pl.String,
        # what is estimated (size, mad, mad_early, length, auc), between or for which responses
        "name": pl.String,
        "contrast": pl.String,
        "control": pl.String,
        "variant": pl.String,
        # null where no gradient is used: AUC of token counts or of the loss alone
        "projection": pl.String,
        "effect": pl.Float64,
        "samples": pl.Int32,
        # why there is no effect; empty if there is one
        "reason": pl.String,
        # the effect in each bootstrap draw: paired across models, since the draws are
        "draws": pl.List(pl.Float64),
    },
    ("model", "dataset", "name", "contrast", "control", "variant", "projection"),
)
DISCRIMINATION = Table(
    "discrimination",
    {
        **_CELL,
        "projection": pl.String,
        # a metric, `classifier` (linear, cross-validated, on the curve of that metric), and for
        # comparison `response_tokens` and `loss`, which have no projection
        "score": pl.String,
        "auc": pl.Float64,
        **_INTERVAL,
        "samples": pl.Int32,
        "reason": pl.String,
    },
    (*_CELL_KEY, "score", "projection"),
)
FINDINGS = Table(
    "findings",
    {
        "claim": pl.Int16,
        "part": pl.String,
        "variant": pl.String,
        "statement": pl.String,
        "model": pl.String,
        # the other side of a contrast between models or datasets, null within one
        "versus": pl.String,
        "dataset": pl.String,
        "projection": pl.String,
        "control": pl.String,
        "contrast": pl.String,
        "metric": pl.String,
        "effect_name": pl.String,
        "effect": pl.Float64,
        **_INTERVAL,
        # the claim says that the effect is greater, or less, than this
        "direction": pl.String,
        "reference": pl.Float64,
        "p": pl.Float64,
        # p after Benjamini-Hochberg over all rows of this claim, part and variant
        "q": pl.Float64,
        "verdict": pl.String,
        # yes, no or unclear: whether a supported claim stands under every length control
        "survives": pl.String,
        "reason": pl.String,
        "samples": pl.Int32,
    },
    ("claim", "part", "variant", "model", "versus", "dataset", "control", "projection"),
)
COMPARISON = Table(
    "comparison",
    {
        **_CELL,
        **_PLACE,
        "depth": pl.Float64,
        "metric": pl.String,
        # means of the curve, and (ours - theirs) / theirs
        "ours": pl.Float64,
        "theirs": pl.Float64,
        "relative_difference": pl.Float64,
    },
    (*_CELL_KEY, "projection", "metric", "layer"),
)
TABLES = {
    t.name: t
    for t in (
        DATASET,
        AUDIT,
        SPECTRA,
        FAILURES,
        METRICS,
        CURVES,
        MAD,
        RD,
        RD_SUMMARY,
        SAMPLES,
        LENGTHS,
        RANKS,
        ESTIMATES,
        DISCRIMINATION,
        FINDINGS,
        COMPARISON,
    )
}


def conform(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return `frame` with the table's columns in order and sorted; refuse any other columns."""
    missing = [name for name in table.schema if name not in frame.columns]
    extra = [name for name in frame.columns if name not in table.schema]
    if missing or extra:
        raise ValueError(f"table {table.name}: missing columns {missing}, unknown columns {extra}")
    frame = frame.select(pl.col(name).cast(dtype) for name, dtype in table.schema.items())
    return frame.sort(table.key)


def write_table(
    frame: pl.DataFrame, table: Table, path: str | Path, provenance: dict[str, Any]
) -> None:
    """Write a table with its provenance in the Parquet metadata, completely or not at all."""
    metadata = {PARQUET_KEY: json.dumps(provenance, sort_keys=True), "table": table.name}
    with atomic(path) as aside:
        conform(frame, table).write_parquet(aside, metadata=metadata, compression="zstd")


def write_parts(
    parts: Iterable[pl.DataFrame], table: Table, path: str | Path, provenance: dict[str, Any]
) -> None:
    """Write a table that is larger than memory, one row group a part.

    The parts come in the order of the table's key, each is sorted here; see :func:`write_table`.
    """
    import pyarrow.parquet as pq  # here, since planning a study must stay quick

    metadata = {PARQUET_KEY: json.dumps(provenance, sort_keys=True), "table": table.name}
    empty = pl.DataFrame(schema=table.schema).to_arrow()
    schema = empty.schema.with_metadata(metadata)
    with atomic(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for part in parts:
            if not part.is_empty():
                arrow = conform(part, table).to_arrow()
                writer.write_table(arrow.cast(schema), row_group_size=arrow.num_rows)


def read_table(path: str | Path, table: Table) -> pl.DataFrame:
    """Read a table; a :class:`UserError` names the file if it is not that table."""
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); "
            "if the workflow wrote it, delete it and run again"
        ) from None
    if dict(frame.schema) != {n: _instance(d) for n, d in table.schema.items()}:
        raise UserError(
            f"{path}: is not a {table.name} table of this version: it has columns "
            f"{dict(frame.schema)}; delete it and run the workflow again"
        )
    return frame


def scan_table(paths: list[str | Path], table: Table) -> pl.LazyFrame:
    """Scan files of one table lazily."""
    return pl.scan_parquet([str(p) for p in paths], schema=table.schema)


def _instance(dtype: Any) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype
