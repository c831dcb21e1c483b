"""The pool of a dataset: every instruction of a source with all its responses.

Samples are chosen from the pool, and controls draw sentences and answers from the whole of it, so
that a study that asks for more samples changes none that it had.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from layergrad.datasets.answers import final_answer


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
    """All samples of a source in its order, and how many rows were refused for which reason."""

    dataset: str
    samples: tuple[Sample, ...]
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row of a source before it has an identity."""

    row: int
    instruction: str
    responses: dict[str, str]
    given: dict[str, dict[str, str]] = field(default_factory=dict)


def make_pool(dataset: str, rows: Iterable[Row], refused: dict[str, int] | None = None) -> Pool:
    """Give every row its identity and its right answer."""
    seen: Counter[str] = Counter()
    samples = []
    for row in rows:
        seen[row.instruction] += 1
        sample_id = hashlib.sha256(row.instruction.encode()).hexdigest()[:16]
        if seen[row.instruction] > 1:
            sample_id += f"-{seen[row.instruction]}"
        answer = right_answer(row.responses)
        samples.append(
            Sample(sample_id, row.row, row.instruction, row.responses, answer, row.given)
        )
    return Pool(dataset, tuple(samples), refused or {})


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
