"""Local files of instructions and responses: JSON lists, JSON lines or Parquet."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergrad.config import BadRows, Columns, FilesSource
from layergrad.datasets.pool import Fault, Pool, Row, make_pool
from layergrad.datasets.values import BadRowError, holds_integers_with_gaps, kind, read_text, shown
from layergrad.errors import UserError

SUFFIXES = {".json", ".jsonl", ".ndjson", ".parquet"}
COMPRESSED_SUFFIXES = {".gz", ".zst", ".bz2", ".xz", ".zip"}
# How files begin that are no text, and what they are.
_BINARY = {
    b"\x1f\x8b": "is compressed (gzip): decompress it",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd): decompress it",
    b"BZh": "is compressed (bzip2): decompress it",
    b"\xfd7zXZ\0": "is compressed (xz): decompress it",
    b"PK\x03\x04": "is compressed (zip): decompress it",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
}
Place = str  # of a row in its file: "row 3", "line 3"


@dataclass(frozen=True)
class Entry:
    """One row of a file: its texts, or the fault for which it is left out.

    The instruction of a row with a fault is there if it can be read, for matching.
    """

    place: Place
    instruction: str | None
    response: str
    fault: Fault | None = None


@dataclass(frozen=True)
class _Repeated:
    """A JSON object in which a key stands twice, so that nobody knows which value is meant."""

    key: str


def load_files(dataset: str, source: FilesSource) -> Pool:
    """Read the files of every response and control and match their rows.

    A row that is bad in one file is left out of all of them (``bad_rows: skip``) or refused.

    Raises
    ------
    UserError
        For a file that is missing or unreadable, a malformed row (with its place, from 1), files
        that do not hold the same instructions, or another number of rows than stated.
    """
    files = {("", response): path for response, path in source.responses.items()}
    for control, paths in source.controls.items():
        files |= {(control, response): path for response, path in paths.items()}
    read = {
        path: read_entries(path, source.columns, source.bad_rows)
        for path in dict.fromkeys(files.values())
    }
    first = next(iter(files.values()))
    reference = read[first]
    expected = source.checks.get("rows")
    if expected is not None and len(reference) != expected:
        raise UserError(f"{first}: has {len(reference)} rows, the configuration expects {expected}")
    columns = {name: matched(reference, read[path], first, path) for name, path in files.items()}
    return make_pool(
        dataset,
        (
            _row(i, {name: column[i] for name, column in columns.items()})
            for i in range(len(reference))
        ),
    )


def _row(i: int, entries: dict[tuple[str, str], Entry]) -> Row:
    """Return one row of a dataset from its entries in the files: (control, response) -> entry."""
    responses: dict[str, str] = {}
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for (control, response), entry in entries.items():
        (given[control] if control else responses)[response] = entry.response
    instruction = next((e.instruction for e in entries.values() if e.instruction is not None), "")
    fault = next((e.fault for e in entries.values() if e.fault), None)
    return Row(i, instruction, responses, dict(given), fault)


def read_entries(
    path: str | Path, columns: Columns | None = None, bad_rows: BadRows = "refuse"
) -> list[Entry]:
    """Return every row of a file.

    Parameters
    ----------
    path
        JSON list, JSON lines or Parquet.
    columns
        Names of its columns.
    bad_rows
        ``refuse`` the file for a row that cannot be used, or ``skip``: give its entry a fault.

    Raises
    ------
    UserError
        See :func:`load_files`.
    """
    columns = columns or Columns()
    rows = list(_rows(Path(path)))
    objects = [row for _, row in rows if isinstance(row, dict)]
    _check_columns(path, objects, columns)
    names = (columns.instruction, columns.input, columns.output)
    whole = {
        name
        for name in names
        if holds_integers_with_gaps(row[name] for row in objects if name in row)
    }
    entries = [_entry(path, place, row, columns, whole) for place, row in rows]
    bad = next((entry.fault for entry in entries if entry.fault), None)
    if bad and bad_rows == "refuse":
        raise UserError(
            f"{bad.place}: {bad.reason}; fix the row, or leave such rows out with "
            "`bad_rows: skip` under the source of a study"
        )
    return entries


def matched(
    reference: list[Entry], entries: list[Entry], first: str | Path, path: str | Path
) -> list[Entry]:
    """Return `entries`, of file `path`, in the order of `reference`, of file `first`.

    Rows match by position where both files have the same instructions in the same order, else by
    the instruction and, for an instruction that is repeated, by its occurrence. A row whose
    instruction cannot be read, and which is left out, may stand for any; so where it may be an
    occurrence of a repeated instruction, all occurrences are left out.
    """
    if len(reference) == len(entries) and all(
        None in (one.instruction, other.instruction) or one.instruction == other.instruction
        for one, other in zip(reference, entries, strict=True)
    ):
        return entries
    hidden = [entry for entry in [*entries, *reference] if entry.instruction is None]
    uncertain = uncertain_repeats(occurrences(reference), occurrences(entries))
    found: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in reversed(entries):
        found[entry.instruction].append(entry)
    in_order = []
    for wanted in reference:
        if wanted.instruction is None:
            in_order.append(wanted)
        elif wanted.instruction in uncertain:
            in_order.append(Entry("", None, "", uncertain_fault(hidden[0].fault)))
        elif found[wanted.instruction]:
            in_order.append(found[wanted.instruction].pop())
        elif found[None]:
            in_order.append(Entry("", None, "", unreadable_fault(hidden[0].fault)))
            # each stands for one row; the last is named for all that are missing beyond them
            if len(found[None]) > 1:
                found[None].pop()
                hidden.pop(0)
        else:
            raise UserError(
                f"{path}: has no row for the instruction of {first}, {wanted.place}: "
                f"{shown(wanted.instruction)}; the files of one dataset must hold the same "
                "instructions"
            )
    if any(wanted.instruction is None for wanted in reference):
        return in_order  # the rows left over may belong to those that are left out
    for entry in entries:
        if entry.instruction in {None, *uncertain}:
            continue
        if entry in found[entry.instruction]:
            raise UserError(
                f"{path}, {entry.place}: {first} has no row for this instruction: "
                f"{shown(entry.instruction)}; the files of one dataset must hold the same "
                "instructions"
            )
    return in_order


def occurrences(entries: list[Entry]) -> Counter[str | None]:
    """Return how often each instruction stands in a file; None: those that cannot be read."""
    return Counter(entry.instruction for entry in entries)


def uncertain_repeats(one: Counter[str | None], other: Counter[str | None]) -> set[str]:
    """Return the repeated instructions whose occurrences in two files may not correspond.

    An instruction that cannot be read may be one more occurrence. It is none where both files have
    as many and only one of them has instructions that cannot be read.
    """
    if not (one[None] or other[None]):
        return set()
    repeated = {i for i in one.keys() | other.keys() if i and max(one[i], other[i]) > 1}
    if one[None] and other[None]:
        return repeated
    return {i for i in repeated if one[i] != other[i]}


def uncertain_fault(hidden: Fault | None) -> Fault:
    """Return why a row of a repeated instruction is left out, given the row in the way."""
    reason = "its instruction is repeated, and a row that cannot be read may be any occurrence"
    return Fault(f"{reason}: {hidden.reason}", hidden.place) if hidden else Fault(reason)


def unreadable_fault(hidden: Fault) -> Fault:
    """Return why a row is left out whose counterpart in another file is a row without a name."""
    return Fault(
        f"there is no readable row for its instruction in another file: {hidden.reason}",
        hidden.place,
    )


# ------------------------------------------------------------------------------ rows


def _check_columns(path: str | Path, objects: list[dict[str, Any]], columns: Columns) -> None:
    """Refuse a file that lacks a column in all of its rows: its name is wrong, not the rows."""
    needed = [columns.instruction, columns.output]
    if columns.input != Columns().input:
        needed.append(columns.input)  # named on purpose, so it must be there
    for name in filter(None, needed):
        if objects and not any(name in row for row in objects):
            raise UserError(
                f"{path}: has no column {name!r} (it has {_named(objects[0])}); name the columns "
                "of the instruction and the response under source.columns"
            )


def _entry(path: str | Path, place: Place, row: Any, columns: Columns, whole: set[str]) -> Entry:
    instruction = None
    try:
        row = _object(row, columns)
        instruction = _instruction(row, columns, whole)
        return Entry(place, instruction, _cell(row, columns.output, whole))
    except BadRowError as error:
        return Entry(place, instruction, "", Fault(str(error), f"{path}, {place}"))


def _object(row: Any, columns: Columns) -> dict[str, Any]:
    if isinstance(row, BadRowError):
        raise row
    if isinstance(row, _Repeated):
        raise BadRowError(f"has the key {row.key!r} twice")
    if not isinstance(row, dict):
        # integers are read as text
        what = "a text or a number" if isinstance(row, str) else kind(row)
        names = f"{columns.instruction!r} and {columns.output!r}"
        raise BadRowError(f"a row must be an object with columns {names}, not {what}")
    return row


def _instruction(row: dict[str, Any], columns: Columns, whole: set[str]) -> str:
    instruction = _cell(row, columns.instruction, whole)
    extra = row.get(columns.input) if columns.input else None
    if extra is None or extra == "":
        return instruction
    return f"{instruction}\n{_cell(row, columns.input, whole)}"


def _cell(row: dict[str, Any], column: str, whole: set[str]) -> str:
    if column not in row:
        raise BadRowError(f"has no column {column!r} (it has {_named(row)})")
    return read_text(row[column], column, column in whole)


def _named(row: dict[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "none"


# ------------------------------------------------------------------------------ formats


def _rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Give every row with its place; a row that is no JSON is given as its BadRowError."""
    if path.suffix in COMPRESSED_SUFFIXES:
        raise UserError(f"{path}: is compressed ({path.suffix}): decompress it")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; use .json, .jsonl or .parquet")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    text = read_file(path)
    # the content decides, since people name either kind of JSON either way
    if text.lstrip()[:1] == "[":
        yield from _json_list(path, text)
        return
    if _is_one_object(path, text):
        raise UserError(
            f"{path}: holds one object, not a list of rows; write a list of objects, each with an "
            "instruction and an output (pandas: `to_json(..., orient='records')`)"
        )
    yield from _json_lines(path, text)


def read_file(path: str | Path) -> str:
    """Return the text of a file in UTF-8, without the byte order marks that begin its lines.

    Such a mark begins a file, and a later line where files were joined.

    Raises
    ------
    UserError
        If it is missing or unreadable, compressed, or in another encoding (with the line).
    """
    data = _bytes(Path(path))
    binary = next((what for start, what in _BINARY.items() if data.startswith(start)), None)
    if binary:
        raise UserError(f"{path}: {binary}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise UserError(f"{path}: is UTF-16 or no text at all; save it as UTF-8")
    try:
        return re.sub("^\ufeff+", "", data.decode("utf-8"), flags=re.MULTILINE)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: is not UTF-8 ({error.reason} after the byte "
            f"0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None


def _bytes(path: Path) -> bytes:
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: could not be read: {error.strerror}") from None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file in it")
    if not path.exists():
        hint = "run `dvc pull`" if Path(f"{path}.dvc").exists() else "check the path"
        raise UserError(f"{path}: no such file; {hint}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    keys = [key for key, _ in pairs]
    return _Repeated(next(key for key in keys if keys.count(key) > 1))


# Integers are texts as they were written, however long.
_DECODER = json.JSONDecoder(parse_int=str, object_pairs_hook=_unique)
_SPACE = re.compile(r"[ \t\r\n]*")


def _json_list(path: Path, text: str) -> Iterator[tuple[Place, Any]]:
    """Give the items of a JSON list one by one, so that a fault names its row."""
    at = _after_space(text, text.index("[") + 1)
    number = 0
    if text[at : at + 1] == "]":
        raise UserError(f"{path}: holds no rows")
    try:
        while number == 0 or text[at - 1] == ",":
            number += 1
            row, at = _DECODER.raw_decode(text, _after_space(text, at))
            yield f"row {number}", row
            at = _after_space(text, at) + 1
            if text[at - 1 : at] not in {",", "]"}:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at - 1)
        if _after_space(text, at) < len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except RecursionError:
        raise UserError(f"{path}, row {number}: is nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"{path}, row {number}: not valid JSON: {error}") from None


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _json_lines(path: Path, text: str) -> Iterator[tuple[Place, Any]]:
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: holds no rows")
    for i, line in lines:
        yield f"line {i}", _decoded(line)


def _decoded(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except RecursionError:
        return BadRowError("is nested too deeply to be read")
    except ValueError as error:
        return BadRowError(f"not valid JSON: {error}")


def _is_one_object(path: Path, text: str) -> bool:
    """Whether the file is a single object, over several lines unless it should hold a list."""
    is_lone = path.suffix == ".json" or "\n" in text.strip()
    return is_lone and isinstance(_decoded(text), dict | _Repeated)


def _parquet_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    import polars as pl

    _check_file(path)
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None
    if frame.is_empty():
        raise UserError(f"{path}: holds no rows")
    yield from ((f"row {i}", row) for i, row in enumerate(frame.iter_rows(named=True), 1))
