"""The pool of a dataset: every instruction of a source with all its responses.

Samples are chosen from the pool, and controls draw sentences and answers from the whole of it, so
that a study that asks for more samples changes none that it had.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from layergrad.datasets.answers import final_answer
from layergrad.errors import UserError

TOLD_REASONS = 10


@dataclass(frozen=True)
class Sample:
    """One instruction with every response to it.

    Attributes
    ----------
    sample_id
        Stable hash of the instruction; the second of two equal instructions ends in ``-2``.
    row
        Place in the source, from 0.
    instruction
        What the model is asked.
    responses
        Response name -> text.
    answer
        The right final answer where there is one.
    given
        Ready-made wrong responses of the source: control -> response -> text.
    """

    sample_id: str
    row: int
    instruction: str
    responses: dict[str, str]
    answer: str | None = None
    given: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """All samples of a source in its order, and how many rows were refused for which reason.

    Attributes
    ----------
    refused
        Reason -> number of rows that were left out for it.
    first_refused
        Reason -> place of the first such row, where rows have one.
    occurrences
        Instruction -> number of rows of the source, also of those that were left out; None: of
        those whose instruction is unknown.
    """

    dataset: str
    samples: tuple[Sample, ...]
    refused: dict[str, int] = field(default_factory=dict)
    first_refused: dict[str, str] = field(default_factory=dict)
    occurrences: Counter[str | None] = field(default_factory=Counter)


@dataclass(frozen=True)
class Fault:
    """Why a row is left out, and where it stands."""

    reason: str
    place: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a source before it has an identity; one with a fault will be left out."""

    row: int
    instruction: str
    responses: dict[str, str]
    given: dict[str, dict[str, str]] = field(default_factory=dict)
    fault: Fault | None = None


def make_pool(dataset: str, rows: Iterable[Row]) -> Pool:
    """Give every row its identity and its right answer; count the rows with a fault.

    Raises
    ------
    UserError
        If every row has a fault.
    """
    samples, faults = [], []
    occurrences: Counter[str | None] = Counter()
    for sample_id, row in identified(rows):
        occurrences[row.instruction or None] += 1
        if row.fault is not None:
            faults.append(row.fault)
            continue
        answer = right_answer(row.responses)
        samples.append(
            Sample(sample_id, row.row, row.instruction, row.responses, answer, row.given)
        )
    return replace(pool_of(dataset, samples, faults), occurrences=occurrences)


def identified(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Give the id of every row: a row with a fault counts, so that the others keep theirs."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.instruction] += 1
        sample_id = hashlib.sha256(row.instruction.encode()).hexdigest()[:16]
        if seen[row.instruction] > 1:
            sample_id += f"-{seen[row.instruction]}"
        yield sample_id, row


def pool_of(dataset: str, samples: list[Sample], faults: list[Fault]) -> Pool:
    """Return the pool of samples and of the rows that were left out; see :func:`make_pool`."""
    refused = Counter(fault.reason for fault in faults)
    first = {fault.reason: fault.place for fault in reversed(faults) if fault.place}
    pool = Pool(dataset, tuple(samples), dict(refused), first)
    if faults and not samples:
        told = "; ".join(told_refusals(pool.refused, pool.first_refused))
        raise UserError(f"{dataset}: no row can be used: {told}")
    return pool


def told_refusals(refused: dict[str, int], first_refused: dict[str, str]) -> list[str]:
    """Return a line per reason for which rows were left out, the first ten; see :class:`Pool`."""
    lines = []
    for reason, count in list(refused.items())[:TOLD_REASONS]:
        line = f"{_rows(count)} left out: {reason}"
        place = first_refused.get(reason)
        lines.append(f"{line} (first: {place})" if place else line)
    others = sum(list(refused.values())[TOLD_REASONS:])
    return [*lines, f"{_rows(others)} left out for other reasons"] if others else lines


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def right_answer(responses: dict[str, str]) -> str | None:
    """Return the final answer that the responses state: the whole of `none`, or a closing line."""
    if "none" in responses:
        return responses["none"].strip()
    return next(filter(None, map(final_answer, responses.values())), None)


def choose(pool: Pool, samples: int, seed: int) -> list[Sample]:
    """Return `samples` of the pool, fewer if it has fewer, in the order of the source.

    Each sample has its place in a queue by a hash of the seed and of itself, so asking for more
    keeps those one had, and neither other samples nor responses of the pool matter.
    """

    def place(sample: Sample) -> str:
        return hashlib.sha256(f"{seed}/{sample.sample_id}".encode()).hexdigest()

    return sorted(sorted(pool.samples, key=place)[:samples], key=lambda sample: sample.row)


def generator(*parts: object) -> random.Random:
    """Return a random generator that depends on `parts` alone, on every machine."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 (nothing secret)
