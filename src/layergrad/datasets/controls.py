"""Controls: how a response is made wrong, by name.

A control sees the whole pool, so a study that asks for more samples changes none that it had; what
it draws depends on the seed and on the sample alone (`mosaic_paper`: on the order of the pool too).
The wrong answer of a sample is the same in all its responses.

Bounds, which tests and the audit check: `irrelevant` keeps the number of lines and the list mark of
each, and the mean length of a response within 5 %; `wrong_answer` changes the answer alone;
`shuffled_steps` keeps every character, in another order; `other_response` has the form of its
donor, whose longest response is at most 2.5 times as long or as short; `mosaic_paper` keeps
nothing of a single response, but the number of sentences over all.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from layergrad.datasets import answers
from layergrad.datasets.mosaic import Mosaics
from layergrad.datasets.pool import Pool, Sample, generator
from layergrad.datasets.sentences import (
    Line,
    doubled_punctuation,
    fragments,
    is_content,
    parse,
    plain,
    render,
    sentences,
)
from layergrad.errors import UserError

# Of so many sentences drawn at random, the one nearest in length to the one it replaces is taken:
# the length of a response then stays about the same (its mean within 5 %), and choice remains.
DRAWS = 16


class Candidate(NamedTuple):
    """A sentence that may be drawn, and the forms by which a copy of it is known."""

    sentence: str
    forms: frozenset[str]


def _forms(sentence: str) -> frozenset[str]:
    return frozenset({plain(sentence), *fragments(sentence)})


class Bank:
    """Everything that controls draw from: the sentences and answers of a pool.

    Parameters
    ----------
    pool
        All samples of the source.
    seed
        Seed of the study.
    """

    def __init__(self, pool: Pool, seed: int):
        self.pool = pool
        self.seed = seed
        self._parsed: dict[str, dict[tuple[str, str], list[Candidate]]] = {}

    def drawer(self, control: str, sample: Sample, response: str) -> random.Random:
        """Return the random generator of one response of one sample under one control."""
        return generator(self.seed, control, sample.sample_id, response)

    def own(self, sample: Sample) -> set[str]:
        """Return the forms of every sentence of all responses of a sample."""
        texts = sample.responses.values()
        return {form for text in texts for s in sentences(text) for form in _forms(s)}.union(
            *map(fragments, texts)
        )

    def wrong_answer(self, sample: Sample) -> str | None:
        """Return an answer that is not the right one: the same for all responses of a sample.

        The opposite of a yes or no, another of the options that the instruction offers, else the
        differing answer of another sample, about as long; None where a sample has no answer.

        Raises
        ------
        UserError
            If no other sample of the pool has another answer.
        """
        right = sample.answer
        if right is None:
            return None
        flipped = answers.opposite(right)
        if flipped is not None:
            return flipped
        offered = answers.options(sample.instruction, right) or self.answers
        others = [answer for answer in offered if not answers.same_answer(answer, right)]
        if not others:
            raise UserError(
                f"{self.pool.dataset}: every sample has the answer {right!r}, so no wrong one can "
                "be taken from another sample; use a source with more rows"
            )
        rng = generator(self.seed, "answer", sample.sample_id)
        drawn = rng.sample(others, min(len(others), DRAWS))
        return min(drawn, key=lambda answer: abs(len(answer) - len(right)))

    @cached_property
    def answers(self) -> list[str]:
        """Different answers of the pool, in the order of their first row."""
        found = (sample.answer for sample in self.pool.samples if sample.answer is not None)
        return list(dict.fromkeys(found))

    @cached_property
    def mosaics(self) -> Mosaics:
        """Mosaics of the pool as the paper's authors made them."""
        return Mosaics(self.pool, self.seed)

    def candidates(self, response: str, kind: str, place: str) -> list[Candidate]:
        """Return the sentences of the pool's responses of one kind of line and place.

        `place` is ``first``, ``middle`` or ``last`` in its response.
        """
        if response not in self._parsed:
            self._parsed[response] = self._collect(response)
        return self._parsed[response][kind, place]

    def _collect(self, response: str) -> dict[tuple[str, str], list[Candidate]]:
        found: dict[tuple[str, str], dict[str, Candidate]] = defaultdict(dict)
        for sample in self.pool.samples:
            body, _ = answers.split_closing(sample.responses[response])
            lines = parse(body)
            slots = _slots(lines)
            for k, (i, j) in enumerate(slots):
                sentence = lines[i].sentences[j]
                place = _place(k, len(slots))
                if doubled_punctuation(sentence) or sentence[0] in ",;:.?!":
                    continue
                # equal sentences count once, so that common phrases are not drawn more often
                candidate = Candidate(sentence, _forms(sentence))
                kind = _kind(lines[i], sentence)
                found[kind, place].setdefault(plain(sentence), candidate)
        return defaultdict(list, {slot: list(texts.values()) for slot, texts in found.items()})


# The end of a whole sentence: its full stop, perhaps within quotation marks, brackets or bold.
_END = re.compile(r"[.!?…][\"'”’)\]*$]*$")  # noqa: RUF001

Control = Callable[[Bank, Sample, str], str]


def irrelevant(bank: Bank, sample: Sample, response: str) -> str:
    """Return a mosaic of other samples' sentences in the form of the sample's own response.

    The paper's construction without its defects: each sentence is replaced by one of another
    sample, the first by a first one, the last by a last one; lines, blank lines, list marks and
    formula blocks stay as they are; no sentence of any response of the sample itself is used, none
    twice; the final answer is wrong, and the same in all responses of the sample.
    """
    wrong = bank.wrong_answer(sample)
    if response == "none" and wrong is not None:
        return wrong
    body, closing = answers.split_closing(sample.responses[response])
    lines = parse(body)
    used = bank.own(sample)
    rng = bank.drawer("irrelevant", sample, response)
    slots = _slots(lines)
    owed = 0  # characters by which the mosaic is shorter than the original so far
    for k, (i, j) in enumerate(slots):
        owed += len(lines[i].sentences[j])
        slot = (_kind(lines[i], lines[i].sentences[j]), _place(k, len(slots)))
        lines[i].sentences[j] = _draw(bank, sample, response, slot, owed, used, rng)
        owed -= len(lines[i].sentences[j])
    text = render(lines) + closing
    return text if wrong is None else answers.with_closing(text, wrong)


def _slots(lines: list[Line]) -> list[tuple[int, int]]:
    """Return line and position of every sentence that says something."""
    return [
        (i, j)
        for i, line in enumerate(lines)
        for j, sentence in enumerate(line.sentences)
        if is_content(sentence)
    ]


def _kind(line: Line, sentence: str) -> str:
    """Return the kind of a sentence's line; prose without an end, as in a list, is a ``phrase``."""
    return "phrase" if line.kind == "prose" and not _END.search(sentence) else line.kind


def _place(k: int, slots: int) -> str:
    if k == 0:
        return "first"
    return "last" if k == slots - 1 else "middle"


def _draw(
    bank: Bank,
    sample: Sample,
    response: str,
    slot: tuple[str, str],
    wanted: int,
    used: set[str],
    rng: random.Random,
) -> str:
    """Draw a sentence of about `wanted` characters that was not used yet and mark it as used."""
    kind, place = slot
    for source in _sources(kind, place):
        found = bank.candidates(response, *source)
        free = _sampled(found, sample, used, place == "last", rng)
        if free:
            drawn = min(free, key=lambda candidate: abs(len(candidate.sentence) - wanted))
            used.update(drawn.forms)
            return drawn.sentence
    raise UserError(
        f"{sample_name(bank, sample)}, response {response!r}: too few sentences of other samples "
        f"for the control `irrelevant` (the source has {len(bank.pool.samples)} rows); use a "
        "source with more rows"
    )


def _sources(kind: str, place: str) -> list[tuple[str, str]]:
    """Return where to draw from: the same kind and place, else other places, else prose."""
    kinds = [kind] if kind == "prose" else [kind, "prose"]
    places = [place, *(p for p in ("middle", "last", "first") if p != place)]
    return [(k, p) for k in kinds for p in places]


def _sampled(
    found: list[Candidate],
    sample: Sample,
    used: set[str],
    is_last: bool,
    rng: random.Random,
) -> list[Candidate]:
    """Return up to DRAWS candidates at random; of a long list only a part is looked at first."""
    for looked_at in (min(len(found), 2 * DRAWS), len(found)):
        free = [
            found[i]
            for i in rng.sample(range(len(found)), looked_at)
            if used.isdisjoint(found[i].forms)
            and not _tells(found[i].sentence, sample.answer, is_last)
        ]
        if free:
            return free[:DRAWS]
    return []


def _tells(sentence: str, answer: str | None, is_last: bool) -> bool:
    """Whether a sentence of another sample states this sample's right answer as the answer.

    It may, if it names the answer where a response concludes, or speaks of an answer at all.
    """
    if answer is None or not (is_last or "answer" in sentence.casefold()):
        return False
    bare = answer.strip("(). ")
    ignore_case = re.IGNORECASE if len(bare) > 1 else re.NOFLAG  # (A) is not the article
    return bool(re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", sentence, ignore_case))


def other_response(bank: Bank, sample: Sample, response: str) -> str:
    """Return the whole response of another sample whose answer differs.

    All responses of a sample come from one donor: of those drawn at random, the one whose responses
    are nearest in length.
    """
    rng = bank.drawer("other_response", sample, "")
    donors = [other for other in bank.pool.samples if _may_give(other, sample)]
    if not donors:
        raise UserError(
            f"{sample_name(bank, sample)}: no other sample has another instruction and answer, as "
            "the control `other_response` needs; use a source with more rows"
        )
    drawn = rng.sample(donors, min(len(donors), DRAWS))
    return min(drawn, key=lambda donor: _length_drift(donor, sample)).responses[response]


def _may_give(other: Sample, sample: Sample) -> bool:
    if other.instruction == sample.instruction:
        return False
    if other.answer is None or sample.answer is None:
        return all(other.responses[r] != text for r, text in sample.responses.items())
    return not answers.same_answer(other.answer, sample.answer)


def _length_drift(donor: Sample, sample: Sample) -> float:
    """Return by how much the longest response would change in length, as a log ratio."""
    response = max(sample.responses, key=lambda name: len(sample.responses[name]))
    return abs(math.log(len(donor.responses[response]) / len(sample.responses[response])))


def wrong_answer(bank: Bank, sample: Sample, response: str) -> str:
    """Return the sample's own response with a wrong final answer and nothing else changed."""
    wrong = bank.wrong_answer(sample)
    text = sample.responses[response]
    if response == "none" and wrong is not None:
        return wrong
    changed = text if wrong is None else answers.with_closing(text, wrong)
    if changed == text:
        raise UserError(
            f"{sample_name(bank, sample)}, response {response!r}: states no final answer (a line "
            f"`{answers.PHRASE} X` or a box), so the control `wrong_answer` cannot change it; "
            "leave this control out for this dataset (its key `controls`)"
        )
    return changed


def shuffled_steps(bank: Bank, sample: Sample, response: str) -> str:
    """Return the sample's own sentences in another order, its final answer right and last.

    Sentences change places with those of the same kind (prose, heading, formula), so that lines,
    list marks and formula blocks stay. A response of one sentence cannot be shuffled and is
    returned as it is; the audit counts those as ``unchanged``.
    """
    body, closing = answers.split_closing(sample.responses[response])
    lines = parse(body)
    rng = bank.drawer("shuffled_steps", sample, response)
    slots: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, j in _slots(lines):
        slots[lines[i].kind].append((i, j))
    for places in slots.values():
        own = [lines[i].sentences[j] for i, j in places]
        order = own[:]
        while len(set(own)) > 1 and order == own:
            rng.shuffle(order)
        for (i, j), sentence in zip(places, order, strict=True):
            lines[i].sentences[j] = sentence
    return render(lines) + closing


def mosaic_paper(bank: Bank, sample: Sample, response: str) -> str:
    """Return a mosaic as the paper's authors made it, with its defects, to reproduce their RD.

    Every second answer of a yes/no question is the right one, with the sample's own last sentence;
    sentences are cut at full stops, so that line breaks beside them are lost: see
    :mod:`layergrad.datasets.mosaic`.
    """
    return bank.mosaics.text(sample, response)


def sample_name(bank: Bank, sample: Sample) -> str:
    """Return how a message names a sample."""
    return f"{bank.pool.dataset}, row {sample.row}"


CONTROLS: dict[str, Control] = {
    "irrelevant": irrelevant,
    "mosaic_paper": mosaic_paper,
    "other_response": other_response,
    "wrong_answer": wrong_answer,
    "shuffled_steps": shuffled_steps,
}


def apply_control(bank: Bank, control: str, sample: Sample, response: str) -> str:
    """Return a sample's response under a control: `correct`, one of the source, or one by name."""
    if control == "correct":
        return sample.responses[response]
    if control in sample.given:
        return sample.given[control][response]
    return CONTROLS[control](bank, sample, response)
