r"""The paper's mosaics: wrong responses made as its authors made theirs, flaws included.

Inferred from the authors' files, of which it explains every wrong response of AQuA, GSM8K,
StrategyQA and Algebra, piece by piece, and 99 % of those about Wikipedia:

1. Every response is cut into pieces at the full stops that stand beside no digit, without regard to
   lines; where there are hardly any, as in AQuA's simplified ones, at line breaks, real ones and
   those written ``\n``; texts without a final answer are cut into sentences.
2. All first pieces change places among the rows, and all middle ones, so that a row has as many
   pieces as before. The last piece, which states the answer, stays. Sentences of texts without an
   answer change places wherever they are. Pieces are joined by ``. ``, sentences by a space.
3. A row's wrong response is the mosaic of another row, the same in all its responses: see
   :func:`partners`. Assignment in place, where a swap was meant, leaves every second row of a
   yes/no set with the mosaic of its own row: its own last piece, and the right answer.

In three of the authors' files (Detailed of ECQA, CREAK and Geometry) line breaks vanish altogether,
which nothing in the responses themselves foretells; here they are kept as in the other files.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice

from layergrad.datasets.answers import canonical
from layergrad.datasets.pool import Pool, Sample, generator

Label = str | Fraction | None

_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_LINE = re.compile(r"\\n|\n")
# A sentence ends at a full stop, not within "U.S." nor after "Mr." or an initial.
_SENTENCE = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<!\b[A-Z]\.)(?<=[.!?])\s+")
# Responses with fewer pieces between full stops, in the mean, are cut at line breaks.
_FEW = 2


class Mosaics:
    """The mosaics of a pool; unlike other controls, each depends on all rows of the pool."""

    def __init__(self, pool: Pool, seed: int):
        self.pool = pool
        self.seed = seed
        self._texts: dict[str, list[str]] = {}

    def text(self, sample: Sample, response: str) -> str:
        """Return the wrong response of a sample: for `none` the answer of its partner."""
        partner = self._partners[self._place[sample.sample_id]]
        if response == "none":
            return self.pool.samples[partner].responses["none"]
        if response not in self._texts:
            self._texts[response] = self._mosaics(response)
        return self._texts[response][partner]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {sample.sample_id: i for i, sample in enumerate(self.pool.samples)}

    @cached_property
    def _partners(self) -> list[int]:
        answers = [sample.answer for sample in self.pool.samples]
        return partners(answers, generator(self.seed, "mosaic_paper", "partners"))

    def _mosaics(self, response: str) -> list[str]:
        texts = [sample.responses[response] for sample in self.pool.samples]
        rng = generator(self.seed, "mosaic_paper", response)
        if all(sample.answer is None for sample in self.pool.samples):
            return [" ".join(row) for row in dealt([cut(t, _SENTENCE) for t in texts], rng)]
        rows = [cut(text, _STOP) for text in texts]
        if sum(map(len, rows)) < _FEW * len(rows):
            rows = [cut(text, _LINE) for text in texts]
        return [". ".join(row) for row in dealt_by_place(rows, rng)]


def cut(text: str, at: re.Pattern[str]) -> list[str]:
    """Return the pieces of a text without the space around them; at least one."""
    pieces = (piece.strip() for piece in at.split(text))
    return [piece for piece in pieces if piece] or [text]


def dealt(rows: list[list[str]], rng: random.Random) -> list[list[str]]:
    """Return rows of as many pieces as before, all pieces having changed places at random."""
    pieces = list(chain.from_iterable(rows))
    rng.shuffle(pieces)
    hand = iter(pieces)
    return [list(islice(hand, len(row))) for row in rows]


def dealt_by_place(rows: list[list[str]], rng: random.Random) -> list[list[str]]:
    """Return rows whose first and middle pieces changed places at random; the last ones stay."""
    firsts = dealt([row[:1] for row in rows], rng)
    middles = dealt([row[1:-1] for row in rows], rng)
    lasts = [row[1:][-1:] for row in rows]
    return [
        [*first, *middle, *last] for first, middle, last in zip(firsts, middles, lasts, strict=True)
    ]


def partners(answers: list[str | None], rng: random.Random) -> list[int]:
    """Return which row's mosaic each row gets.

    Of two answers (yes and no): rows are paired with a later one of the other answer, and both get
    the mosaic of the later one. Of options, (A) to (E): a row drawn at random whose right answer
    differs, or what that row was given by then. Else the next row; the last row gets that of the
    second, which the first one has by then. Without answers each row keeps its own mosaic, whose
    sentences are those of any rows.
    """
    labels = [None if answer is None else canonical(answer) for answer in answers]
    kinds = set(labels)
    if kinds == {None}:
        return list(range(len(labels)))
    if len(kinds) == 2 and None not in kinds:
        return _paired(labels, rng)
    if len(kinds) > 2 and all(isinstance(k, str) and len(k) == 1 and k.isalpha() for k in kinds):
        return _drawn(labels, rng)
    return [*range(1, len(labels)), 1 % len(labels)]


def _paired(labels: list[Label], rng: random.Random) -> list[int]:
    waiting: dict[Label, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        waiting[label].append(i)
    for rows in waiting.values():
        rng.shuffle(rows)
    given = list(range(len(labels)))
    paired: set[int] = set()
    for i, label in enumerate(labels):
        if i in paired:
            continue
        others = next(rows for other, rows in waiting.items() if other != label)
        while others and others[-1] in paired:
            others.pop()
        # where the other answer is used up, the mosaic of any row
        partner = others.pop() if others else rng.randrange(len(labels))
        paired |= {i, partner}
        given[i] = given[partner]
    return given


def _drawn(labels: list[Label], rng: random.Random) -> list[int]:
    given = list(range(len(labels)))
    for i, label in enumerate(labels):
        drawn = rng.randrange(len(labels))
        while labels[drawn] == label:
            drawn = rng.randrange(len(labels))
        given[i] = given[drawn]
    return given
