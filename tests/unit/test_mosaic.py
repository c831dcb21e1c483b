"""Mosaics as the paper's authors made them: how pieces are cut and dealt, and who gets which."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from layergrad.datasets.answers import final_answer
from layergrad.datasets.mosaic import _SENTENCE, _STOP, Mosaics, cut, dealt_by_place, partners
from layergrad.datasets.pool import Row, make_pool

ROWS = 400


def pool_of(answer, response, rows=ROWS):
    """Rows whose answer and response are made by functions of the row."""
    texts = [(answer(i), response(i)) for i in range(rows)]
    return make_pool(
        "d", [Row(i, f"q{i}", {"none": a, "detailed": t}) for i, (a, t) in enumerate(texts)]
    )


def story(i):
    return (
        f"Begin of row {i}a.\n\n1. **Then**:\n   - It has {i}b.\n   - It costs 3.50 of {i}.\n"
        f"So end of row {i}z."
    )


@pytest.fixture
def yes_no():
    return pool_of(lambda i: "yes" if i % 2 else "no", story)


# ------------------------------------------------------------------------------ pieces


def test_full_stops_beside_digits_cut_nothing():
    text = "It is 3.5 in 1999.\nThen e.g. this.\n\n2. **That**. End"
    pieces = ["It is 3.5 in 1999.\nThen e", "g", "this", "2. **That**", "End"]
    assert cut(text, _STOP) == pieces
    assert cut(".", _STOP) == ["."]


def test_sentences_are_not_cut_at_titles_and_initials():
    text = "Mr. J. Doe left the U.S. early. He came back!\nWhy? Nobody knows"
    pieces = ["Mr. J. Doe left the U.S. early.", "He came back!", "Why?", "Nobody knows"]
    assert cut(text, _SENTENCE) == pieces


def test_pieces_change_places_and_the_last_stays():
    rows = [[f"f{i}", *(f"m{i}.{k}" for k in range(i % 4)), f"l{i}"] for i in range(50)]
    rows.append(["single"])
    mixed = dealt_by_place(rows, random.Random(0))
    assert [len(row) for row in mixed] == [len(row) for row in rows]
    assert [row[1:][-1:] for row in mixed] == [row[1:][-1:] for row in rows]
    assert {row[0] for row in mixed} == {row[0] for row in rows}
    assert Counter(m for row in mixed for m in row[1:-1]) == Counter(
        m for row in rows for m in row[1:-1]
    )
    assert mixed != rows


# ---------------------------------------------------------------------------- partners


def test_of_two_answers_every_second_row_keeps_its_own():
    answers = ["yes", "No", "no", "Yes"] * 50
    given = partners(answers, random.Random(0))
    own = {i for i, partner in enumerate(given) if partner == i}
    assert len(own) == 100
    assert Counter(given) == dict.fromkeys(own, 2)
    others = [(i, partner) for i, partner in enumerate(given) if i not in own]
    assert all(answers[i].lower() != answers[partner].lower() for i, partner in others)
    assert all(i < partner for i, partner in others)


def test_a_row_without_a_counterpart_gets_any():
    given = partners(["yes"] * 20 + ["no"], random.Random(0))
    assert given[0] == given[20] == 20
    assert all(0 <= partner <= 20 for partner in given)


def test_options_are_drawn_in_place_so_that_some_come_out_right():
    answers = [f"({'ABCDE'[i % 5]})" for i in range(2000)]
    given = partners(answers, random.Random(0))
    right = [i for i, partner in enumerate(given) if answers[partner] == answers[i]]
    assert 0.10 < len(right) / 2000 < 0.16  # an eighth: half the rows drawn before, a quarter right
    assert sum(i > 1000 for i in right) > 0.6 * len(right)  # the later, the more
    assert len(set(given)) < 0.6 * 2000


def test_other_answers_are_those_of_the_next_row():
    assert partners(["5", "0", "7", None], random.Random(0)) == [1, 2, 3, 1]
    assert partners(["5"], random.Random(0)) == [0]
    assert partners([None, None], random.Random(0)) == [0, 1]


# ------------------------------------------------------------------------------- texts


def test_answer_and_last_piece_are_of_the_same_partner(yes_no):
    mosaics = Mosaics(yes_no, seed=0)
    ends = {sample.responses["detailed"].split("So ")[1][:-1]: sample for sample in yes_no.samples}
    right = 0
    for sample in yes_no.samples:
        partner = ends[mosaics.text(sample, "detailed").split("So ")[1]]
        assert mosaics.text(sample, "none") == partner.answer
        assert (partner == sample) == (partner.answer == sample.answer)
        right += partner == sample
    assert right == ROWS // 2


def test_line_breaks_beside_full_stops_vanish(yes_no):
    mosaics = Mosaics(yes_no, seed=0)
    for sample in yes_no.samples:
        text = mosaics.text(sample, "detailed")
        assert sample.responses["detailed"].count("\n") == 5
        assert text.count("\n") == 2  # within a piece: after `:` and after a digit
        assert text.count(". ") == 3  # two seams and a list mark
        assert not text.endswith(".")


def test_responses_with_hardly_a_full_stop_are_cut_at_lines():
    pool = pool_of(
        lambda i: f"({'ABCDE'[i % 5]})",
        lambda i: f"x{i} = {i}.5.\\ny{i} = {i}\\nz = 2\nThe final answer is ({'ABCDE'[i % 5]})",
    )
    mosaics = Mosaics(pool, seed=0)
    for sample in pool.samples[:50]:
        text = mosaics.text(sample, "detailed")
        assert final_answer(text) == mosaics.text(sample, "none")
        assert text.count(".. ") == 1  # a line that ended with a full stop
        assert text.count(". ") == 3
        assert "\n" not in text and "\\n" not in text


def test_sentences_without_an_answer_change_places_wherever_they_are():
    texts = [f"First of {i}. Then J. Doe {i}. Last of {i}." for i in range(ROWS)]
    pool = make_pool("k", [Row(i, f"q{i}", {"len100": t}) for i, t in enumerate(texts)])
    mosaics = Mosaics(pool, seed=0)
    mixed = [mosaics.text(sample, "len100") for sample in pool.samples]
    assert Counter(" ".join(mixed).split()) == Counter(" ".join(texts).split())
    assert all(len(cut(text, _SENTENCE)) == 3 for text in mixed)
    assert 0.2 < sum(text.startswith("First") for text in mixed) / ROWS < 0.5
