"""A long solution, written from worded steps: restated, worked out, checked, and never wrong.

Every equation that is written is read again from the finished text and evaluated exactly; a step
whose equations are not all true is refused before anything is written.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from fractions import Fraction

from layergrad.datasets.answers import PHRASE
from layergrad.datasets.arithmetic import NUMBER, Equation, Operation, equations, number, operations
from layergrad.datasets.sentences import sentences


class WrongStepError(ValueError):
    """A step states something that is not true, or that cannot be read."""


@dataclass(frozen=True)
class Style:
    """How one solution looks; the choice varies from sample to sample."""

    layout: str  # headings, numbered or prose
    times: str
    divide: str


def check_steps(steps: list[str], answer: str) -> None:
    """Refuse steps with an equation that is false or unreadable, or that do not end at the answer.

    Raises
    ------
    WrongStepError
        Saying which equation is at fault.
    """
    stated = [equation for step in steps for equation in equations(step)]
    for equation in stated:
        if not equation.holds:
            raise WrongStepError(f"{equation.left or '?'} = {equation.right or '?'} is not true")
    if not stated or stated[-1].values[1] != Fraction(answer):
        raise WrongStepError("the last equation does not give the answer")


def write_solution(question: str, steps: list[str], answer: str, rng: random.Random) -> str:
    """Write a solution several times as long as its steps.

    Parameters
    ----------
    question
        The question alone, without instructions on the form of the answer.
    steps
        Worded steps, each with its equations; see :func:`check_steps`.
    answer
        The final number.
    rng
        Chooses layout and wording.

    Raises
    ------
    WrongStepError
        If a step, or anything written here, is not true.
    """
    check_steps(steps, answer)
    style = Style(
        rng.choice(["headings", "numbered", "prose"]),
        rng.choice(["×", "*"]),  # noqa: RUF001
        rng.choice(["÷", "/"]),
    )
    parts = [
        _opening(question, style, rng),
        *_worked_steps(question, steps, style, rng),
        _checks(steps, style, rng),
        _closing(answer, rng),
    ]
    text = "\n\n".join(parts)
    for equation in equations(text):
        if not equation.holds:
            raise WrongStepError(f"wrote {equation.left} = {equation.right}, which is not true")
    return f"{text}\n{PHRASE} {answer}"


# ------------------------------------------------------------------------------ what is known


def _opening(question: str, style: Style, rng: random.Random) -> str:
    told = sentences(question)
    asked = [s for s in told if s.endswith("?")] or told[-1:]
    given = [s for s in told if s not in asked]
    start = rng.choice(
        [
            "Let's work through this problem step by step.",
            "To solve this, we go through the problem slowly and check each result.",
            "We solve the problem one step at a time and verify the work at the end.",
            "Let us first sort out what we know, and then reason towards the answer.",
        ]
    )
    known = rng.choice(["What is given:", "What we know:", "The facts of the problem:"])
    wanted = rng.choice(["What is asked:", "What we need to find:", "The question:"])
    if style.layout == "prose":
        facts = ["The problem tells us the following. " + " ".join(given)] if given else []
        return "\n\n".join([start, *facts, f"{wanted} {' '.join(asked)}"])
    bullet = "- " if style.layout == "headings" else "* "
    blocks = [start]
    if given:
        blocks.append("\n".join([_title(known, style), *(bullet + s for s in given)]))
    blocks.append("\n".join([_title(wanted, style), *(bullet + s for s in asked)]))
    return "\n\n".join(blocks)


def _title(text: str, style: Style) -> str:
    return f"### {text.rstrip(':')}" if style.layout == "headings" else f"**{text}**"


# ------------------------------------------------------------------------------ the steps


def _worked_steps(question: str, steps: list[str], style: Style, rng: random.Random) -> list[str]:
    told = set(_numbers(question))
    results: dict[Fraction, int] = {}
    blocks = []
    for i, step in enumerate(steps, 1):
        lines = [step]
        stated = equations(step)
        for equation in stated:
            lines += _trace(equation, told, results, rng)
            lines += _work(equation, style, rng)
        if stated:
            value = stated[-1].values[1]
            lines.append(_result(i, value, len(steps), rng))
            results.setdefault(value, i)
        blocks.append(_laid_out(i, len(steps), lines, style, rng))
    return blocks


def _laid_out(i: int, steps: int, lines: list[str], style: Style, rng: random.Random) -> str:
    if style.layout == "headings":
        return "\n".join([f"### Step {i}", lines[0], *(f"- {line}" for line in lines[1:])])
    if style.layout == "numbered":
        return "\n".join([f"{i}. {lines[0]}", *(f"   - {line}" for line in lines[1:])])
    if i == 1:
        start = rng.choice(["First of all:", "To begin with:", "We start here."])
    elif i == steps:
        start = rng.choice(["Now for the last step.", "Finally:", "One step remains."])
    else:
        start = rng.choice(["Next:", "After that:", "Then we go on.", "The next step follows."])
    return "\n".join([f"{start} {lines[0]}", " ".join(lines[1:])]).rstrip()


def _result(i: int, value: Fraction, steps: int, rng: random.Random) -> str:
    shown = show(value)
    if i == steps:
        return rng.choice(
            [
                f"So the last step gives {shown}.",
                f"That leaves us with {shown} at the end.",
                f"The value we end with is {shown}.",
            ]
        )
    return rng.choice(
        [
            f"So step {i} gives {shown}, which we keep for later.",
            f"The result of this step is {shown}.",
            f"We write down {shown} as the result and move on.",
            f"At this point we have {shown}.",
        ]
    )


def _numbers(text: str) -> list[Fraction]:
    return [number(found.group()) for found in NUMBER.finditer(text)]


def _trace(
    equation: Equation, told: set[Fraction], results: dict[Fraction, int], rng: random.Random
) -> list[str]:
    """Say where a number comes from, if that is certain.

    Only a number of three or more digits, or with decimals, is traced: a smaller one may equal a
    number of the question by chance (12 pencils, 12 months).
    """
    for value in _numbers(equation.left):
        if (value < 100 and value.denominator == 1) or value in _ROUND:
            continue
        if value in results and value not in told:
            return [
                rng.choice(
                    [
                        f"The value {show(value)} is what step {results[value]} gave.",
                        f"Here {show(value)} is taken from step {results[value]}.",
                    ]
                )
            ]
        if value in told and value not in results:
            return [
                rng.choice(
                    [
                        f"The number {show(value)} is stated in the problem.",
                        f"The problem itself gives us {show(value)}.",
                    ]
                )
            ]
    return []


# Constants of the calendar, of money and of percentages may equal a number of the question.
_ROUND = {Fraction(n) for n in (100, 144, 360, 365, 1000, 3600)} | {Fraction(1, 2), Fraction(1, 4)}


def _work(equation: Equation, style: Style, rng: random.Random) -> list[str]:
    """Work an equation out, one operation after the other."""
    done = operations(equation.left, equation.percent)
    if not done:
        return []
    start = rng.choice(["We compute", "Working it out,", "The calculation is", "We get"])
    lines = []
    for k, operation in enumerate(done):
        word = start if k == 0 else rng.choice(["Then", "After that,", "Next,"])
        lines.append(f"{word} {_written(operation, style)}.")
        lines += _in_parts(operation, style, rng)
    return lines


def _written(operation: Operation, style: Style) -> str:
    sign = {"*": style.times, "/": style.divide}.get(operation.sign, operation.sign)
    return f"{_operand(operation.a)} {sign} {_operand(operation.b)} = {show(operation.value)}"


def _in_parts(operation: Operation, style: Style, rng: random.Random) -> list[str]:
    """Show how an operation on larger whole numbers is done by hand."""
    a, b, value = operation.a, operation.b, operation.value
    if any(n.denominator != 1 or n < 0 for n in (a, b, value)):
        return []
    if operation.sign == "*" and min(a, b) > 10:
        small, large = sorted((a, b))
        tens = small // 10 * 10
        if tens == small:
            return []
        first = Operation("*", large, Fraction(tens))
        second = Operation("*", large, small - tens)
        total = Operation("+", first.value, second.value)
        parts = f"{_written(first, style)} and {_written(second, style)}"
        how = rng.choice(["In parts:", "We can split this:", "By hand:"])
        return [f"{how} {parts}, together {_written(total, style)}."]
    if operation.sign in "+-" and b > 10 and b % 10:
        tens = Fraction(b // 10 * 10)
        first = Operation(operation.sign, a, tens)
        second = Operation(operation.sign, first.value, b - tens)
        if first.value < 0:
            return []
        how = rng.choice(["In two goes:", "Tens first:", "Bit by bit:"])
        return [f"{how} {_written(first, style)}, and {_written(second, style)}."]
    if operation.sign == "/" and value > 1:
        back = Operation("*", value, b)
        return [
            rng.choice(
                [
                    f"This is right because {_written(back, style)}.",
                    f"Indeed, {_written(back, style)}.",
                ]
            )
        ]
    return []


# ------------------------------------------------------------------------------ the check


def _checks(steps: list[str], style: Style, rng: random.Random) -> str:
    title = rng.choice(["Checking the result:", "Verification:", "Let us check the work:"])
    lines = []
    for i, step in enumerate(steps, 1):
        for equation in equations(step):
            done = operations(equation.left, equation.percent)
            if done:
                lines.append(_check(i, done[-1], style, rng))
    end = rng.choice(
        [
            "Every step holds up, so the reasoning is consistent.",
            "All of the calculations agree.",
            "Nothing had to be corrected, and the steps fit together.",
        ]
    )
    if style.layout == "prose":
        return f"{title} {' '.join(lines)} {end}"
    bullet = "- " if style.layout == "headings" else "* "
    return "\n".join([_title(title, style), *(bullet + line for line in lines), "", end])


def _check(i: int, operation: Operation, style: Style, rng: random.Random) -> str:
    back = _inverse(operation)
    opening = rng.choice(
        [f"Step {i}, the other way round:", f"Going back through step {i}:", f"For step {i},"]
    )
    if back is None:
        return f"{opening} {_written(operation, style)} once more."
    return f"{opening} {_written(back, style)}, as it should be."


def _inverse(operation: Operation) -> Operation | None:
    b, value = operation.b, operation.value
    if operation.sign == "+":
        return Operation("-", value, b)
    if operation.sign == "-":
        return Operation("+", value, b)
    if operation.sign == "/":
        return Operation("*", value, b)
    return Operation("/", value, b) if b else None


def _closing(answer: str, rng: random.Random) -> str:
    return rng.choice(
        [
            f"This was the quantity asked for, and it is {answer}.",
            f"Therefore the quantity we were looking for is {answer}.",
            f"With that the problem is solved: the result is {answer}.",
            f"So, putting everything together, we arrive at {answer}.",
        ]
    )


def show(value: Fraction) -> str:
    """Return a number as people write it: whole, with at most six decimals, or as a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    if (10**6) % value.denominator == 0:
        return f"{float(value):.6f}".rstrip("0")
    return f"{value.numerator}/{value.denominator}"


def _operand(value: Fraction) -> str:
    shown = show(value)
    return f"({shown})" if re.search(r"[-/]", shown) else shown
