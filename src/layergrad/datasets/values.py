"""What a cell of a data file stands for: a text, or the reason why its row cannot be used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

EXACT = 2**53  # up to here every integer is a float of its own
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_KINDS = {
    type(None): "null",
    bool: "true or false",
    float: "a number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    bytes: "bytes",
}


class BadRowError(ValueError):
    """A row that cannot become a sample.

    The message says why, without the row's place, since rows are counted by it.
    """


def shown(text: str) -> str:
    """Return a text in quotes for a message, at most its first 77 characters and an ellipsis."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def read_text(value: Any, column: str, whole: bool = False) -> str:
    """Return the text of a cell.

    Parameters
    ----------
    value
        What the file holds.
    column
        Name of the column, for the message.
    whole
        The column holds integers that gaps made floats (:func:`holds_integers_with_gaps`).

    Raises
    ------
    BadRowError
        If the value is not a text, is empty, or cannot be written as UTF-8. Integers have one
        way to be written and are taken; other numbers have several, and none of them is taken as
        the text that somebody meant.
    """
    if value is None:
        raise BadRowError(f"{column!r} is null")
    if isinstance(value, float):
        value = _number(value, column, whole)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRowError(f"{column!r} is {kind(value)}, not text")
    if not value.strip():
        raise BadRowError(f"{column!r} is empty")
    fault = unusable(value)
    if fault:
        raise BadRowError(f"{column!r} {fault}")
    return value


def unusable(text: str) -> str | None:
    """Return why a text cannot be read by a tokenizer, None if it can."""
    found = _HALF_CHARACTER.search(text)
    if found:
        return f"holds half a character (\\u{ord(found.group()):04x}): write the whole one"
    if "\0" in text:
        return "holds a NUL character: remove it"
    return None


def holds_integers_with_gaps(values: Iterable[Any]) -> bool:
    """Whether all numbers of a column are integers that are floats because cells are missing.

    So pandas writes such a column: 5, nothing, 7 become 5.0, null, 7.0.
    """
    values = list(values)
    numbers = [value for value in values if not _is_gap(value)]
    return 0 < len(numbers) < len(values) and all(map(_is_whole, numbers))


def kind(value: Any) -> str:
    """Return what a value is, as people call it."""
    return _KINDS.get(type(value), f"a value of type {type(value).__name__}")


def _number(value: float, column: str, whole: bool) -> str:
    if not math.isfinite(value):
        name = "NaN" if math.isnan(value) else "infinite"
        raise BadRowError(f"{column!r} is {name}")
    if not whole:
        raise BadRowError(
            f"{column!r} is a number with a decimal point or an exponent, which can be written in "
            "several ways: write it as text"
        )
    return str(int(value))


def _is_gap(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) <= EXACT
