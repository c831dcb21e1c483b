"""Controls make a response wrong and keep its form; what they draw depends on the seed alone."""

from __future__ import annotations

import re

import pytest

from layergrad.config import ReasoningGymSource
from layergrad.datasets.answers import final_answer, same_answer
from layergrad.datasets.controls import CONTROLS, Bank, apply_control
from layergrad.datasets.pool import Row, choose, make_pool
from layergrad.datasets.reasoning import load_reasoning
from layergrad.datasets.sentences import parse, plain, render, sentences, split
from layergrad.errors import UserError

DOUBLED = re.compile(r"[.!?,;:]\s*[,;:]|(?<!\.)\.\s?\.(?!\.)|[!?,;:]\s*\.(?!\d)")


@pytest.fixture(scope="module")
def gsm():
    return load_reasoning("gsm", ReasoningGymSource(rows=200, seed=0))


@pytest.fixture(scope="module")
def bank(gsm):
    return Bank(gsm, seed=0)


def yes_no_pool(rows=20):
    """Questions with a yes or no, a short and a long response of several lines."""
    subjects = [f"thing number {i}" for i in range(rows)]
    return make_pool(
        "yes_no",
        [
            Row(
                i,
                f"Is {s} blue?",
                {
                    "none": "yes" if i % 3 else "no",
                    "simplified": f"The {s} was painted. Its paint is {i} years old.\n"
                    f"The final answer is {'yes' if i % 3 else 'no'}",
                    "detailed": f"Let us look at {s}.\n\n1. **Colour of {s}**:\n"
                    f"   - It was seen in {1900 + i}.\n   - It was also seen in {1950 + i}.\n\n"
                    f"\\[\nx_{{{i}}} = {i}\n\\]\n\nSo {s} is done.\n"
                    f"The final answer is {'yes' if i % 3 else 'no'}",
                },
            )
            for i, s in enumerate(subjects)
        ],
    )


def shape(text):
    """The form of a response: list marks, kind and number of sentences of every line."""
    # a label may become prose where no other sample has one
    kinds = {"label": "prose"}
    return [
        (line.mark, kinds.get(line.kind, line.kind), len(line.sentences)) for line in parse(text)
    ]


# ------------------------------------------------------------------------------ irrelevant


@pytest.mark.parametrize("pool_name", ["gsm", "yes_no"])
def test_irrelevant_keeps_the_promises_of_the_mosaic(gsm, pool_name):
    pool = gsm if pool_name == "gsm" else yes_no_pool()
    bank = Bank(pool, seed=0)
    for sample in pool.samples:
        own = {plain(s) for text in sample.responses.values() for s in sentences(text)}
        wrong = {apply_control(bank, "irrelevant", sample, r) for r in ("none",)}
        for response, original in sample.responses.items():
            text = apply_control(bank, "irrelevant", sample, response)
            said = [plain(s) for s in sentences(text)]
            assert not own & set(said), (sample.row, response)
            assert len(set(said)) == len(said)
            assert not DOUBLED.search(text)
            if response == "none":
                continue
            assert text.count("\n") == original.count("\n")
            assert shape(text) == shape(original)
            wrong.add(final_answer(text))
        (answer,) = wrong  # one wrong answer for all responses
        assert not same_answer(answer, sample.answer)


def test_irrelevant_takes_first_from_firsts_and_last_from_lasts(gsm, bank):
    bodies = [s.responses["simplified"].rsplit("\n", 1)[0] for s in gsm.samples]
    firsts = {plain(sentences(body)[0]) for body in bodies}
    lasts = {plain(sentences(body)[-1]) for body in bodies if len(sentences(body)) > 1}
    for sample in gsm.samples:
        body = apply_control(bank, "irrelevant", sample, "simplified").rsplit("\n", 1)[0]
        said = [plain(s) for s in sentences(body)]
        assert said[0] in firsts
        if len(said) > 1:
            assert said[-1] in lasts


def test_irrelevant_does_not_conclude_with_the_right_answer(gsm, bank):
    for sample in gsm.samples:
        body = apply_control(bank, "irrelevant", sample, "detailed").rsplit("\n", 1)[0]
        assert not re.search(rf"(?<!\w){sample.answer}(?!\w)", sentences(body)[-1])


@pytest.mark.parametrize(("response", "bound"), [("simplified", 0.5), ("detailed", 0.1)])
def test_irrelevant_keeps_the_length(gsm, bank, response, bound):
    ratios = [
        len(apply_control(bank, "irrelevant", s, response)) / len(s.responses[response])
        for s in gsm.samples
    ]
    assert all(1 - bound < ratio < 1 + bound for ratio in ratios), (min(ratios), max(ratios))
    assert abs(sum(ratios) / len(ratios) - 1) < 0.05


def test_yes_becomes_no_in_the_same_case():
    rows = [Row(i, f"q{i}", {"none": a}) for i, a in enumerate(["yes", "No", "TRUE", "False"])]
    bank = Bank(make_pool("d", rows), seed=0)
    given = [apply_control(bank, "irrelevant", s, "none") for s in bank.pool.samples]
    assert given == ["no", "Yes", "FALSE", "True"]


def test_an_option_becomes_another_option_of_the_question():
    rows = [Row(i, "Which? (A) one (B) two (C) three", {"none": "(B)"}) for i in range(20)]
    bank = Bank(make_pool("d", rows), seed=0)
    given = {apply_control(bank, "irrelevant", s, "none") for s in bank.pool.samples}
    assert given == {"(A)", "(C)"}


def test_boxed_answers_are_replaced():
    texts = [f"First {i} is it. So we see {i} apples, giving $\\boxed{{{i}}}$." for i in range(9)]
    pool = make_pool("d", [Row(i, f"q{i}", {"simplified": t}) for i, t in enumerate(texts)])
    bank = Bank(pool, seed=0)
    for sample in pool.samples:
        text = apply_control(bank, "irrelevant", sample, "simplified")
        assert not same_answer(final_answer(text), sample.answer)


@pytest.mark.parametrize("control", ["irrelevant", "other_response"])
def test_a_source_that_is_too_small_is_refused(control):
    pool = make_pool("tiny", [Row(0, "q", {"simplified": "One thing. Another thing."})])
    with pytest.raises(UserError, match=r"tiny, row 0.*more rows"):
        apply_control(Bank(pool, 0), control, pool.samples[0], "simplified")


def test_a_source_with_one_answer_is_refused():
    pool = make_pool("same", [Row(i, f"q{i}", {"none": "7"}) for i in range(5)])
    with pytest.raises(UserError, match="every sample has the answer '7'"):
        apply_control(Bank(pool, 0), "irrelevant", pool.samples[0], "none")


# ------------------------------------------------------------------------------ the others


def test_other_response_is_a_whole_response_of_one_donor(gsm, bank):
    for sample in gsm.samples[:60]:
        texts = {r: apply_control(bank, "other_response", sample, r) for r in sample.responses}
        donors = [s for s in gsm.samples if s.responses == texts]
        assert donors
        assert not same_answer(donors[0].answer, sample.answer)
        assert 0.4 < len(texts["detailed"]) / len(sample.responses["detailed"]) < 2.5


def test_wrong_answer_changes_the_answer_alone(gsm, bank):
    for sample in gsm.samples[:60]:
        for response in ("simplified", "detailed"):
            text = apply_control(bank, "wrong_answer", sample, response)
            body, _, answer = text.rpartition(" ")
            assert body == sample.responses[response].rpartition(" ")[0]
            assert not same_answer(answer, sample.answer)
        assert apply_control(bank, "wrong_answer", sample, "none") == answer


def test_wrong_answer_needs_an_answer():
    pool = make_pool("k", [Row(i, f"q{i}", {"len100": f"Text {i}."}) for i in range(5)])
    with pytest.raises(UserError, match="states no final answer"):
        apply_control(Bank(pool, 0), "wrong_answer", pool.samples[0], "len100")


def test_shuffled_steps_are_the_own_sentences_in_another_order(gsm, bank):
    for sample in gsm.samples[:60]:
        for response in ("simplified", "detailed"):
            original = sample.responses[response]
            text = apply_control(bank, "shuffled_steps", sample, response)
            assert sorted(sentences(text)) == sorted(sentences(original))
            assert final_answer(text) == sample.answer
            assert text.count("\n") == original.count("\n")
            if len(set(sentences(original))) > 2:
                assert sentences(text) != sentences(original)


def test_mosaic_paper_has_the_defects_of_the_paper():
    pool = yes_no_pool(60)
    bank = Bank(pool, seed=0)
    texts = [apply_control(bank, "mosaic_paper", s, "detailed") for s in pool.samples]
    answers = [apply_control(bank, "mosaic_paper", s, "none") for s in pool.samples]
    same = [a == s.answer for a, s in zip(answers, pool.samples, strict=True)]
    assert 0 < sum(same) < len(same)
    assert [final_answer(t) for t in texts] == answers
    lines = sum(s.responses["detailed"].count("\n") for s in pool.samples)
    assert sum(t.count("\n") for t in texts) < lines


def test_ready_made_controls_of_a_source_are_used():
    row = Row(0, "q", {"none": "4"}, {"irrelevant_paper": {"none": "5"}})
    pool = make_pool("d", [row])
    assert apply_control(Bank(pool, 0), "irrelevant_paper", pool.samples[0], "none") == "5"


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_controls_are_reproducible_and_follow_the_seed(gsm, control):
    def texts(seed, samples):
        fresh = Bank(gsm, seed)
        return [apply_control(fresh, control, s, "detailed") for s in samples]

    eight = choose(gsm, 8, seed=0)
    assert texts(0, eight) == texts(0, eight)
    assert texts(0, eight) != texts(1, eight)
    forty = choose(gsm, 40, seed=0)
    grown = dict(zip([s.row for s in forty], texts(0, forty), strict=True))
    assert [grown[s.row] for s in eight] == texts(0, eight)


# ------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize(
    "text",
    [
        "One. Two!\n\n  - Three? Four.\n\\[\nx = 1. y = 2.\n\\]\n",
        "",
        "\n\n",
        "### Title\n1. **Bold. Not two.** Next one.   ",
        "He has $3. She has \\(a. b\\) more. Ms. Lee's cat.",
    ],
)
def test_parsed_text_renders_to_itself(text):
    assert render(parse(text)) == text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("It cost $20. Then Dr. Smith left.", ["It cost $20.", "Then Dr. Smith left."]),
        ("More than Ms. Johnson's budget? Yes.", ["More than Ms. Johnson's budget?", "Yes."]),
        ("Let $x=3. y=2$ be. So what?", ["Let $x=3. y=2$ be.", "So what?"]),
        ("**Step one. Go.** Then stop.", ["**Step one. Go.** Then stop."]),
    ],
)
def test_sentences_of_a_line(line, expected):
    assert [piece.strip() for piece in split(line)] == expected
