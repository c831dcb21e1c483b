"""Local files of instructions and responses: JSON lists, JSON lines or Parquet."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layergrad.config import Columns, FilesSource
from layergrad.datasets.pool import Pool, Row, make_pool
from layergrad.errors import UserError

Pair = tuple[str, str]  # instruction, response


def load_files(dataset: str, source: FilesSource) -> Pool:
    """Read the files of every response and control and match their rows.

    Raises
    ------
    UserError
        For a file that is missing or unreadable, a malformed row (with its number, from 1), files
        that do not hold the same instructions, or another number of rows than stated.
    """
    first = next(iter(source.responses.values()))
    columns = {
        response: read_pairs(path, source.columns) for response, path in source.responses.items()
    }
    reference = next(iter(columns.values()))
    expected = source.checks.get("rows")
    if expected is not None and len(reference) != expected:
        raise UserError(f"{first}: has {len(reference)} rows, the configuration expects {expected}")
    texts = {
        response: matched(reference, pairs, first, source.responses[response])
        for response, pairs in columns.items()
    }
    given = {
        control: {
            response: matched(reference, read_pairs(path, source.columns), first, path)
            for response, path in files.items()
        }
        for control, files in source.controls.items()
    }
    return make_pool(
        dataset,
        (
            Row(
                i,
                instruction,
                {response: column[i] for response, column in texts.items()},
                {c: {r: column[i] for r, column in files.items()} for c, files in given.items()},
            )
            for i, (instruction, _) in enumerate(reference)
        ),
    )


def read_pairs(path: str | Path, columns: Columns | None = None) -> list[Pair]:
    """Return (instruction, response) of every row of a file; see :func:`load_files`."""
    columns = columns or Columns()
    return [_pair(row, columns, f"{path}, row {i}") for i, row in enumerate(_rows(Path(path)), 1)]


def matched(reference: list[Pair], pairs: list[Pair], first: str, path: str) -> list[str]:
    """Return the responses of `pairs` in the order of `reference`.

    Rows match by position where both files have the same instructions in the same order, else by
    the instruction and, for an instruction that is repeated, by its occurrence.
    """
    wanted = [instruction for instruction, _ in reference]
    if [instruction for instruction, _ in pairs] == wanted:
        return [response for _, response in pairs]
    found: dict[str, list[str]] = defaultdict(list)
    for instruction, response in reversed(pairs):
        found[instruction].append(response)
    texts = []
    for i, instruction in enumerate(wanted, 1):
        if not found[instruction]:
            raise UserError(
                f"{path}: has no row for the instruction of {first}, row {i}: "
                f"{_short(instruction)}; the files of one dataset must hold the same instructions"
            )
        texts.append(found[instruction].pop())
    for i, (instruction, _) in enumerate(pairs, 1):
        if found[instruction]:
            raise UserError(
                f"{path}, row {i}: {first} has no row for this instruction: {_short(instruction)}; "
                "the files of one dataset must hold the same instructions"
            )
    return texts


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _pair(row: Any, columns: Columns, where: str) -> Pair:
    if not isinstance(row, dict):
        raise UserError(f"{where}: is {type(row).__name__}, not an object with columns")
    instruction = _text(row, columns.instruction, where)
    response = _text(row, columns.output, where)
    extra = row.get(columns.input) if columns.input else None
    if extra is not None and not isinstance(extra, str):
        raise UserError(f"{where}: {columns.input!r} is {type(extra).__name__}, not text")
    return (f"{instruction}\n{extra}" if extra else instruction), response


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise UserError(
            f"{where}: has no column {column!r} (it has {', '.join(map(repr, row)) or 'none'}); "
            "name the columns of your file under source.columns"
        )
    value = row[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: {column!r} is {type(value).__name__}, not text")
    if not value.strip():
        raise UserError(f"{where}: {column!r} is empty")
    return value


def _rows(path: Path) -> Iterator[Any]:
    if not path.exists():
        pointer = Path(f"{path}.dvc")
        hint = "run `dvc pull`" if pointer.exists() else "check the path"
        raise UserError(f"{path}: no such file; {hint}")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in {".jsonl", ".ndjson"}:
        yield from _json_lines(path)
    elif path.suffix == ".json":
        yield from _json_list(path)
    else:
        raise UserError(f"{path}: unknown kind of file; use .json, .jsonl or .parquet")


def _json_list(path: Path) -> Iterator[Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON: {error} (a file with one object a line must end in .jsonl)"
        ) from None
    if not isinstance(data, list) or not data:
        raise UserError(f"{path}: must hold a list of objects, with at least one")
    yield from data


def _json_lines(path: Path) -> Iterator[Any]:
    empty = True
    with open(path, encoding="utf-8") as file:
        for i, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, row {i}: not valid JSON: {error}") from None
    if empty:
        raise UserError(f"{path}: holds no rows")


def _parquet_rows(path: Path) -> Iterator[Any]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None
    if frame.is_empty():
        raise UserError(f"{path}: holds no rows")
    yield from frame.iter_rows(named=True)
