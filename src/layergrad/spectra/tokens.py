"""The samples of cells as tokens, each with its content key, and those that cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from layergrad.config import CORRECT, CUT
from layergrad.errors import UserError
from layergrad.models.encode import Encoded, Encoder, SampleError, too_long
from layergrad.plan import Cell
from layergrad.provenance import long_key
from layergrad.tables import DATASET, read_table

SAMPLE_COLUMNS = ["dataset", "response", "control", "sample_id", "row"]


@dataclass
class Tokens:
    """Samples as tokens, by content key, and those that failed.

    Attributes
    ----------
    samples
        Names of each sample that could be written, and its ``content`` key.
    encoded
        Content key -> tokens: equal tokens are measured once.
    failures
        Names of each sample that could not, with ``reason`` and ``detail``.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, names: dict[str, Any], sample: Encoded | SampleError, engine: Any) -> None:
        """Take in one sample, or why there is none."""
        if isinstance(sample, SampleError):
            self.failures.append({**names, "reason": sample.reason, "detail": str(sample)})
            return
        content = long_key(engine, sample.ids, sample.start)
        self.encoded[content] = sample
        self.samples.append({**names, "content": content})


def tokenise(rows: pl.DataFrame, encoder: Encoder, engine: dict[str, Any]) -> Tokens:
    """Write every row of a table DATASET as tokens; one that cannot be is recorded as failed."""
    tokens = Tokens()
    for row in rows.iter_rows(named=True):
        tokens.add(_names(row), _attempt(encoder, row), engine)
    return tokens


def tokenise_cells(
    samples: str | Path,
    cells: list[Cell],
    equalised: tuple[str, str] | None,
    encoder: Encoder,
    engine: dict[str, Any],
) -> Tokens:
    """Write the samples of cells of one dataset as tokens.

    Parameters
    ----------
    samples
        The built dataset.
    cells
        Cells of the dataset, those of responses cut to equal numbers of tokens among them.
    equalised
        The two responses that the latter are cut from.
    encoder, engine
        Of the model; the engine's settings are part of the content keys.

    Raises
    ------
    UserError
        If the dataset has no rows of a cell.
    """
    table = read_table(samples, DATASET)
    own = [(c.response, c.control) for c in cells if not c.response.endswith(CUT)]
    tokens = tokenise(_rows_of(table, own, samples), encoder, engine)
    cut = [c.response for c in cells if c.response.endswith(CUT)]
    if cut:
        both = _rows_of(table, [(response, CORRECT) for response in equalised], samples)
        _add_equalised(tokens, both, cut, encoder, engine)
    return tokens


def _rows_of(
    table: pl.DataFrame, variants: Iterable[tuple[str, str]], samples: str | Path
) -> pl.DataFrame:
    """Return the rows of some (response, control), in the order of the table."""
    names = ["response", "control"]
    wanted = pl.DataFrame(list(variants), schema=dict.fromkeys(names, pl.String), orient="row")
    rows = table.join(wanted, on=names, how="semi")
    absent = wanted.join(rows, on=names, how="anti")
    if absent.height:
        raise UserError(f"{samples}: has no rows for {'.'.join(absent.row(0))}")
    return rows


def _add_equalised(
    tokens: Tokens, rows: pl.DataFrame, cut: list[str], encoder: Encoder, engine: dict[str, Any]
) -> None:
    """Cut both responses of each instruction to the fewer tokens of the two.

    An instruction one of whose responses cannot be written fails in both, as in their comparison
    uncut; a response that is too long only uncut does not.
    """
    whole = replace(encoder, max_length=sys.maxsize) if encoder.protocol == "clean" else encoder
    for _, pair in rows.group_by("row", "sample_id", maintain_order=True):
        written = [(row, _attempt(whole, row)) for row in pair.iter_rows(named=True)]
        fault = next((found for _, found in written if isinstance(found, SampleError)), None)
        fewest = min(found.response_tokens for _, found in written) if fault is None else 0
        for row, found in written:
            names = _names(row) | {"response": row["response"] + CUT}
            if names["response"] in cut:
                cut_sample = fault or _limited(found.shortened(fewest), encoder.max_length)
                tokens.add(names, cut_sample, engine)


def _limited(sample: Encoded, max_length: int) -> Encoded | SampleError:
    return sample if len(sample.ids) <= max_length else too_long(len(sample.ids), max_length)


def _attempt(encoder: Encoder, row: dict[str, Any]) -> Encoded | SampleError:
    try:
        return encoder.encode(row["instruction"], row["response_text"])
    except SampleError as error:
        return error


def _names(row: dict[str, Any]) -> dict[str, Any]:
    return {column: row[column] for column in SAMPLE_COLUMNS}
