"""Final answers: found in a response, compared, replaced."""

from __future__ import annotations

import re
from fractions import Fraction

PHRASE = "The final answer is"
_CLOSING = re.compile(rf"\s*{PHRASE}:?\s+(?P<answer>\S[^\n]*?)\s*$")
_BOXED = re.compile(r"\\boxed\s*\{")
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_OPTION = re.compile(r"^\(?([A-Za-z])\)?$")


def split_closing(text: str) -> tuple[str, str]:
    """Return a response without its closing answer line, and that line with the space before it."""
    found = _CLOSING.search(text)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")


def final_answer(text: str) -> str | None:
    """Return the answer of the closing line ``The final answer is X``, or in the last box."""
    found = _CLOSING.search(text)
    if found:
        return found["answer"].removesuffix(".")
    spans = boxed_spans(text)
    return text[slice(*spans[-1])].strip() if spans else None


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Return where the contents of every ``\boxed{...}`` begin and end, braces counted."""
    spans = []
    for found in _BOXED.finditer(text):
        depth = 1
        for i in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                spans.append((found.end(), i))
                break
    return spans


def with_closing(text: str, answer: str) -> str:
    """Return a response whose closing line and boxes state `answer` instead of their own."""
    body, closing = split_closing(text)
    if closing:
        found = _CLOSING.search(closing)
        closing = closing[: found.start("answer")] + answer + closing[found.end("answer") :]
    return with_boxed(body, answer) + closing


def with_boxed(text: str, answer: str) -> str:
    r"""Return a text whose ``\boxed{...}`` all hold `answer`."""
    for start, end in reversed(boxed_spans(text)):
        text = text[:start] + answer + text[end:]
    return text


def same_answer(one: str, other: str) -> bool:
    """Whether two answers mean the same: case, space, brackets, units of money, commas aside."""
    return canonical(one) == canonical(other)


def canonical(answer: str) -> str | Fraction:
    """Return what an answer means, for comparison: a number, or text without case and brackets."""
    answer = " ".join(answer.split()).strip().rstrip(".").casefold()
    option = _OPTION.match(answer)
    if option:
        return option[1]
    try:
        return Fraction(re.sub(r"[$€£,%\s]|\\[$%]", "", answer))
    except (ValueError, ZeroDivisionError):
        return answer


def opposite(answer: str) -> str | None:
    """Return the other answer of a yes/no or true/false question in the same case, else None."""
    flipped = _OPPOSITE.get(answer.strip().rstrip(".").casefold())
    if flipped is None:
        return None
    if answer[:1].isupper():
        return flipped.upper() if answer.isupper() else flipped.capitalize()
    return flipped


def options(instruction: str, answer: str) -> list[str]:
    """Return the labels that an instruction offers, if the answer is such a label: (A), (B), ..."""
    if not re.fullmatch(r"\([A-Z]\)", answer.strip()):
        return []
    return sorted(set(re.findall(r"\([A-Z]\)", instruction)))
