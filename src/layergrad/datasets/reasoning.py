"""Questions with worded steps from reasoning-gym, and a long solution beside the short."""

from __future__ import annotations

import re
from importlib.metadata import version

from layergrad.config import ReasoningGymSource
from layergrad.datasets.answers import PHRASE
from layergrad.datasets.pool import Fault, Pool, Row, generator, make_pool
from layergrad.datasets.writer import WrongStepError, check_steps, write_solution
from layergrad.errors import UserError

RESPONSES = ("none", "simplified", "detailed")
_FORM = " Give the result as your final answer. Do not include units."
_RESULT = re.compile(r"\n*####.*$", re.DOTALL)
_DECIMAL = re.compile(r"\d+\.\d+")


def load_reasoning(dataset: str, source: ReasoningGymSource) -> Pool:
    """Generate the questions; refuse those whose steps are not all true.

    About one question in eight of ``gsm_symbolic`` is refused: its steps round in silence
    (``17*0.5=8``), hold unknowns (``2x+100=184``), or do not end at the answer.
    """
    import reasoning_gym

    if source.version not in (None, version("reasoning-gym")):
        raise UserError(
            f"{dataset}: reasoning-gym {version('reasoning-gym')} is installed, the configuration "
            f"states {source.version}: another version may generate other questions; install that "
            "one or change source.version"
        )
    generated = reasoning_gym.create_dataset(source.generator, size=source.rows, seed=source.seed)
    rows = []
    for i in range(source.rows):
        entry = generated[i]
        try:
            rows.append(
                _row(i, entry["question"], entry["answer"], entry["metadata"]["answer_cot"])
            )
        except WrongStepError as error:
            rows.append(Row(i, "", {}, fault=Fault(_reason(error))))
    return make_pool(dataset, rows)


def _row(i: int, question: str, answer: str, worded: str) -> Row:
    question = clean_numbers(question)
    answer = clean_numbers(answer)
    steps = clean_steps(worded)
    check_steps(steps, answer)
    asked = question.removesuffix(_FORM)
    detailed = write_solution(asked, steps, answer, generator("detailed", question))
    simplified = "\n".join([*steps, f"{PHRASE} {answer}"])
    return Row(i, question, {"none": answer, "simplified": simplified, "detailed": detailed})


def _reason(error: WrongStepError) -> str:
    return "an equation is not true" if "not true" in str(error) else str(error)


def clean_steps(worded: str) -> list[str]:
    """Return worded steps one per line: no result mark, list marks or empty lines, each closed."""
    lines = [line.strip(" -") for line in _RESULT.sub("", clean_numbers(worded)).split("\n")]
    lines = [re.sub(r"^\d+\.\s+", "", line) for line in lines if line]
    return [line if line[-1] in ".!?:" else f"{line}." for line in lines]


def clean_numbers(text: str) -> str:
    """Write floats as people do (26.0 as 26); refuse those that no rounding makes readable.

    Raises
    ------
    WrongStepError
        If a number keeps more than four decimals, such as a third written as 0.3333333333333333.
    """

    def rewrite(found: re.Match[str]) -> str:
        shown = f"{float(found.group()):.9f}".rstrip("0").rstrip(".")
        if len(shown.partition(".")[2]) > 4:
            raise WrongStepError("a number has no short decimal form")
        return found.group() if _is_price(found) else shown

    return _DECIMAL.sub(rewrite, text)


def _is_price(found: re.Match[str]) -> bool:
    """Whether a number has a currency and two decimals: £6.40 keeps its cents."""
    return (
        found.string[: found.start()].endswith(("$", "€", "£"))
        and len(found.group().partition(".")[2]) == 2
    )
