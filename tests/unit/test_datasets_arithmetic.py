"""Equations are found in worded text, read with their units and evaluated exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest

from layergrad.datasets.arithmetic import Operation, equations, operations


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("he works for 6 days/week * 2 weeks/month = 12 days/month", 12, 12),
        ("The fee is $400,000 x 8/100 = $32,000.", 32000, 32000),
        ("So he makes 10350*€0.30=€3105 every week", 3105, 3105),
        ("half * 188 beetles = 94 grasshoppers", 94, 94),
        ("85 spools / 250 spools * 100% = 34%", 34, 34),
        ("20% of 200 = 40", 40, 40),
        ("2 * (3 + 4) = 14", 14, 14),
        ("each has 20 grams/5 = 4 grams", 4, 4),
        ("9 skeins per shawl + 4 skeins per hat = 13 skeins of wool", 13, 13),
        (".20 * 85 = 17", 17, 17),
        ("3 - 5 = -2", -2, -2),
        ("dropped it. Then 17 * 0.5 = 8", Fraction(17, 2), 8),
    ],
)
def test_reads_both_sides(text, left, right):
    (equation,) = equations(text)
    assert equation.values == (left, right)
    assert equation.holds == (left == right)


def test_chain_gives_every_link():
    found = equations("12 * 2 = 20 + 4 = 24 eggs")
    assert [e.values for e in found] == [(24, 24), (24, 24)]


@pytest.mark.parametrize(
    "text",
    ["2x+100=184", "Thus, W = 8 episodes.", "140 + T = 196", "3(20)=60", "5 / 0 = 1", "a = b"],
)
def test_what_is_not_plain_arithmetic_does_not_hold(text):
    assert not any(equation.holds for equation in equations(text))


def test_a_line_break_ends_an_expression():
    first, second = equations("a total of 12 + 3 = 15\n5 - 2 = 3")
    assert first.values == (15, 15)
    assert second.values == (3, 3)


def test_operations_are_listed_in_the_order_they_are_done():
    done = operations("2 + 3 * 4")
    assert done == [
        Operation("*", Fraction(3), Fraction(4)),
        Operation("+", Fraction(2), Fraction(12)),
    ]
    assert done[-1].value == 14
    assert operations("x + 1") == []
