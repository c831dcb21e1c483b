"""Equations in worded text: found, read with their units, and evaluated exactly.

``6 days/week * 2 weeks/month = 12 days/month`` is read as 6 * 2 = 12. Values are fractions, so an
equation is true or false, never nearly true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")
_TOKEN = re.compile(
    rf"(?P<number>[$€£]?(?:{NUMBER.pattern})%?)|(?P<word>[^\W\d_][\w'’]*)|(?P<sign>[-=+*/×÷()])"  # noqa: RUF001
    r"|(?P<other>\S|\n)"
)
_PRODUCTS = {"*", "x", "×", "of"}  # noqa: RUF001
_QUOTIENTS = {"/", "÷"}
_SUMS = {"+", "-"}
_WORD_VALUES = {"half": Fraction(1, 2)}
# Words of a unit ("pieces of string per box"); more than these between a number and an operator is
# a sentence that happens to hold a sign.
_UNIT_WORDS = 6


@dataclass(frozen=True)
class Equation:
    """Two expressions that a text states to be equal, and where it states it.

    `values` lists the value of each side; None where the text is not plain arithmetic. `percent` is
    what a percent sign divides by here. `start` and `end` are offsets of the whole statement.
    """

    left: str
    right: str
    values: tuple[Fraction | None, Fraction | None]
    percent: int
    start: int
    end: int

    @property
    def holds(self) -> bool:
        """Whether both sides could be read and are equal."""
        return None not in self.values and self.values[0] == self.values[1]


@dataclass(frozen=True)
class Operation:
    """One operation on two numbers: ``+``, ``-``, ``*`` or ``/``."""

    sign: str
    a: Fraction
    b: Fraction

    @property
    def value(self) -> Fraction:
        """The exact result."""
        return {
            "+": lambda: self.a + self.b,
            "-": lambda: self.a - self.b,
            "*": lambda: self.a * self.b,
            "/": lambda: self.a / self.b,
        }[self.sign]()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def number(text: str) -> Fraction:
    """Return the exact value of a written number: currency, thousands commas, no percent sign."""
    return Fraction(text.strip("$€£%").replace(",", ""))


def equations(text: str) -> list[Equation]:
    """Return every equation of a text, in order; a chain a = b = c gives two."""
    tokens = _tokens(text)
    found = []
    for i, token in enumerate(tokens):
        if token.text != "=":
            continue
        left = _span_before(tokens, i)
        right = _span_after(tokens, i)
        values, percent = _values(left, right)
        start = left[0].start if left else token.start
        end = right[-1].end if right else token.end
        found.append(Equation(_text(text, left), _text(text, right), values, percent, start, end))
    return found


def operations(text: str, percent: int = 1) -> list[Operation]:
    """Return the operations that evaluate an expression, in the order they are done.

    Parameters
    ----------
    text
        For example ``"£195/day * 12 days/month"``.
    percent
        What a percent sign divides by: 1 reads ``20%`` as 20, 100 reads it as 0.2.

    Returns
    -------
    list of Operation
        Empty if the text is a lone number or not plain arithmetic.
    """
    done: list[Operation] = []
    value = _evaluate(_tokens(text), percent, done)
    return done if value is not None else []


def _tokens(text: str) -> list[_Token]:
    tokens = [_Token(m.lastgroup or "", m.group(), *m.span()) for m in _TOKEN.finditer(text)]
    return [_as_operator(tokens, i) for i in range(len(tokens))]


def _values(left: list[_Token], right: list[_Token]) -> tuple[tuple, int]:
    """Read a percent sign the same way on both sides, so that they are equal if possible."""
    readings = [((_evaluate(left, p, []), _evaluate(right, p, [])), p) for p in (1, 100)]
    return next((r for r in readings if r[0][0] is not None and r[0][0] == r[0][1]), readings[0])


def _text(text: str, tokens: list[_Token]) -> str:
    return text[tokens[0].start : tokens[-1].end] if tokens else ""


def _as_operator(tokens: list[_Token], i: int) -> _Token:
    """Decide what a token means from its neighbours: `x` and `of` between numbers multiply."""
    token = tokens[i]
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    before = tokens[i - 1] if i else None
    operand_after = after is not None and (after.kind == "number" or after.text == "(")
    if token.kind == "word" and token.text.lower() in _WORD_VALUES:
        return _Token("number", token.text, token.start, token.end)
    if token.text in {"x", "of"} and operand_after and before is not None and before.text != "=":
        is_share = before.kind == "number" or before.text == ")"
        if token.text == "x" or is_share:
            return _Token("sign", token.text, token.start, token.end)
    if token.text == "/" and not operand_after:
        return _Token("word", "/", token.start, token.end)  # the stroke of a unit: km/hour
    return token


def _is_operator(token: _Token) -> bool:
    return token.kind == "sign" and token.text in _PRODUCTS | _QUOTIENTS | _SUMS


def _span_before(tokens: list[_Token], stop: int) -> list[_Token]:
    """Return the longest run of tokens that ends at `stop` and reads as an expression."""
    i, depth, units, start = stop - 1, 0, 0, stop
    expect_operator = False  # walking left: a number was just passed
    while i >= 0:
        token = tokens[i]
        if token.text == ")":
            if expect_operator and depth == 0:
                break
            depth += 1
        elif token.text == "(":
            depth -= 1
            if depth < 0:
                break
            if depth == 0:
                start, expect_operator, units = i, True, 0
        elif depth:
            if token.kind == "other" or token.text == "=":
                break
        elif _is_operator(token):
            if not expect_operator:
                break
            expect_operator = False
        elif token.kind == "number":
            if expect_operator:
                break
            start, expect_operator, units = i, True, 0
        elif token.kind == "word" and not expect_operator and units < _UNIT_WORDS:
            units += 1
        else:
            break
        i -= 1
    return tokens[start:stop]


def _span_after(tokens: list[_Token], start: int) -> list[_Token]:
    """Return the longest run of tokens after `start` that reads as an expression."""
    i, depth, units, end = start + 1, 0, 0, start + 1
    need_operand = True
    while i < len(tokens):
        token = tokens[i]
        if token.text == "(":
            if not need_operand and depth == 0:
                break
            depth += 1
        elif token.text == ")":
            depth -= 1
            if depth < 0:
                break
            if depth == 0:
                end, need_operand, units = i + 1, False, 0
        elif depth:
            if token.kind == "other" or token.text == "=":
                break
        elif _is_operator(token):
            if need_operand and not (token.text == "-" and i == start + 1):
                break
            need_operand = True
        elif token.kind == "number":
            if not need_operand:
                break
            end, need_operand, units = i + 1, False, 0
        elif token.kind == "word" and not need_operand and units < _UNIT_WORDS:
            units += 1
        else:
            break
        i += 1
    return tokens[start + 1 : end]


def _evaluate(tokens: list[_Token], percent: int, done: list[Operation]) -> Fraction | None:
    """Evaluate by precedence and list what was done; words are units and count for nothing."""
    tokens = [token for token in tokens if token.kind != "word"]
    try:
        value, rest = _sum(tokens, percent, done)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return value if not rest else None


_Read = tuple[Fraction, list[_Token]]


def _sum(tokens: list[_Token], percent: int, done: list[Operation]) -> _Read:
    sign = 1
    if tokens[0].text == "-":
        sign, tokens = -1, tokens[1:]
    value, tokens = _product(tokens, percent, done)
    value *= sign
    while tokens and tokens[0].text in _SUMS:
        operator = tokens[0].text
        term, tokens = _product(tokens[1:], percent, done)
        done.append(Operation(operator, value, term))
        value = done[-1].value
    return value, tokens


def _product(tokens: list[_Token], percent: int, done: list[Operation]) -> _Read:
    value, tokens = _operand(tokens, percent, done)
    while tokens and tokens[0].text in _PRODUCTS | _QUOTIENTS:
        operator = "/" if tokens[0].text in _QUOTIENTS else "*"
        factor, tokens = _operand(tokens[1:], percent, done)
        done.append(Operation(operator, value, factor))
        value = done[-1].value
    return value, tokens


def _operand(tokens: list[_Token], percent: int, done: list[Operation]) -> _Read:
    token, rest = tokens[0], tokens[1:]
    if token.text == "(":
        value, rest = _sum(rest, percent, done)
        if rest[0].text != ")":
            raise ValueError("unbalanced parenthesis")
        return value, rest[1:]
    if token.kind != "number":
        raise ValueError(f"{token.text!r} is no number")
    if token.text.lower() in _WORD_VALUES:
        return _WORD_VALUES[token.text.lower()], rest
    value = number(token.text)
    return (value / percent if token.text.endswith("%") else value), rest
