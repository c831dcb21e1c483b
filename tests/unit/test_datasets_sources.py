"""Sources yield whole pools: every instruction of a source with all its responses."""

from __future__ import annotations

import json
import re
import statistics
from fractions import Fraction

import polars as pl
import pytest

from layergrad.config import Columns, DatasetSpec, EmbeddedSource, FilesSource, ReasoningGymSource
from layergrad.datasets.arithmetic import equations
from layergrad.datasets.knowledge import cut, load_embedded
from layergrad.datasets.pool import choose, generator
from layergrad.datasets.reasoning import clean_numbers, clean_steps, load_reasoning
from layergrad.datasets.sources import load_pool
from layergrad.datasets.writer import WrongStepError, show, write_solution
from layergrad.errors import UserError


@pytest.fixture(scope="module")
def gsm():
    return load_reasoning("gsm", ReasoningGymSource(rows=300, seed=3))


# ------------------------------------------------------------------------------ reasoning-gym


def test_reasoning_has_every_response_and_the_answer(gsm):
    assert len(gsm.samples) + sum(gsm.refused.values()) == 300
    assert len(gsm.samples) > 240
    for sample in gsm.samples:
        assert list(sample.responses) == ["none", "simplified", "detailed"]
        assert sample.responses["none"] == sample.answer
        for response in ("simplified", "detailed"):
            assert sample.responses[response].endswith(f"\nThe final answer is {sample.answer}")
        assert "####" not in sample.responses["simplified"]


def test_no_equation_of_any_response_is_false(gsm):
    for sample in gsm.samples:
        for response in ("simplified", "detailed"):
            found = equations(sample.responses[response])
            assert found
            assert [e for e in found if not e.holds] == []


# An independent reading of the plain equations that the writer itself makes.
N = r"(\d+(?:\.\d+)?)"
SIGN = "([-+*×/÷])"  # noqa: RUF001
PLAIN = re.compile(rf"(?<![\w./(])(?<![-+*×/÷x] ){N} {SIGN} {N} = {N}(?!\.?\d|[%/])")  # noqa: RUF001


def test_written_equations_are_true_by_an_independent_reading(gsm):
    count = 0
    for sample in gsm.samples:
        for a, sign, b, c in PLAIN.findall(sample.responses["detailed"]):
            a, b, c = Fraction(a), Fraction(b), Fraction(c)
            assert {"+": a + b, "-": a - b}.get(sign, a / b if sign in "/÷" else a * b) == c
            count += 1
    assert count > 10 * len(gsm.samples)


def test_detailed_is_several_times_as_long_and_has_lines(gsm):
    def words(sample, response):
        return len(sample.responses[response].split())

    ratios = [words(s, "detailed") / words(s, "simplified") for s in gsm.samples]
    assert statistics.median(ratios) > 4
    assert min(ratios) > 2
    assert all(s.responses["detailed"].count("\n\n") >= 4 for s in gsm.samples)


def test_detailed_restates_what_is_given_and_asked(gsm):
    for sample in gsm.samples[:50]:
        question = sample.instruction.split(" Give the result")[0]
        words = set(re.findall(r"\w+", question))
        assert words <= set(re.findall(r"\w+", sample.responses["detailed"]))


def test_detailed_varies(gsm):
    openings = {s.responses["detailed"].split("\n")[0] for s in gsm.samples}
    assert len(openings) >= 4


def test_solutions_are_the_same_every_time(gsm):
    again = load_reasoning("gsm", ReasoningGymSource(rows=300, seed=3))
    assert again == gsm


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        (["Ben has 17*0.5=8 tubes."], "8"),
        (["Ben has 4+4=8 tubes."], "9"),
        (["Ben has many tubes."], "9"),
        (["2x + 4 = 8 so x = 2."], "2"),
    ],
)
def test_wrong_steps_are_refused(steps, answer):
    with pytest.raises(WrongStepError):
        write_solution("How many?", steps, answer, generator(0))


def test_cleaning():
    assert clean_numbers("26.0 of £6.40 and $900.0") == "26 of £6.40 and $900"
    assert clean_numbers("0.30000000000000004 miles") == "0.3 miles"
    with pytest.raises(WrongStepError):
        clean_numbers("0.6666666666666666")
    worded = "Let's go:\n\n1. First:\n   - So 2 + 2 = 4 plants\n\n#### 4.0"
    assert clean_steps(worded) == ["Let's go:", "First:", "So 2 + 2 = 4 plants."]


@pytest.mark.parametrize(
    ("value", "text"), [(Fraction(6), "6"), (Fraction(1, 4), "0.25"), (Fraction(-2, 3), "-2/3")]
)
def test_numbers_are_written_as_people_do(value, text):
    assert show(value) == text


def test_another_version_of_the_generator_is_refused():
    with pytest.raises(UserError, match=r"reasoning-gym .* is installed"):
        load_reasoning("gsm", ReasoningGymSource(rows=2, version="0.0.1"))


# ------------------------------------------------------------------------------ knowledge


def test_passages_are_cut_at_sentence_ends_and_nested():
    pool = load_embedded("knowledge", EmbeddedSource())
    assert len(pool.samples) >= 20
    for sample in pool.samples:
        short, middle, long = (sample.responses[r] for r in ("len100", "len500", "len1000"))
        assert long.startswith(middle)
        assert middle.startswith(short)
        for text, least in ((short, 100), (middle, 500), (long, 1000)):
            assert len(text) >= least
            assert text[-1] in ".!?\"'”"
        assert sample.answer is None


def test_popularity_chooses_passages():
    parts = [
        {s.instruction for s in load_embedded("k", EmbeddedSource(popularity=p)).samples}
        for p in ("popular", "obscure", None)
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == parts[2]


def test_cut_takes_the_first_sentence_end_that_is_long_enough():
    text = "One two. Three four.\n\nFive six seven. Eight."
    assert cut(text, 1) == "One two."
    assert cut(text, 9) == "One two. Three four."
    assert cut(text, 21) == "One two. Three four.\n\nFive six seven."
    assert cut(text, 1000) == text


# ------------------------------------------------------------------------------ files

ROWS = [{"instruction": f"Question {i}?", "input": "", "output": f"out {i}"} for i in range(4)]


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pl.DataFrame(rows).write_parquet(path)
    return str(path)


def files(tmp_path, **responses):
    paths = {r: write(tmp_path / f"{r}.json", rows) for r, rows in responses.items()}
    return DatasetSpec(
        name="mine", source=FilesSource(responses=paths), responses=list(paths), group="x"
    )


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_all_formats_read_alike(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", ROWS)
    spec = DatasetSpec(name="a", source=FilesSource(responses={"none": path}), responses=["none"])
    pool = load_pool(spec)
    assert [s.instruction for s in pool.samples] == [r["instruction"] for r in ROWS]
    assert [s.responses["none"] for s in pool.samples] == [r["output"] for r in ROWS]
    assert [s.row for s in pool.samples] == [0, 1, 2, 3]


def test_input_is_appended_to_the_instruction(tmp_path):
    rows = [{"instruction": "Add.", "input": "1 2", "output": 3}]
    (sample,) = load_pool(files(tmp_path, none=rows)).samples
    assert sample.instruction == "Add.\n1 2"
    assert sample.responses["none"] == "3"


def test_columns_are_configurable(tmp_path):
    path = write(tmp_path / "a.json", [{"q": "Why?", "a": "So."}])
    columns = Columns(instruction="q", input=None, output="a")
    source = FilesSource(responses={"none": path}, columns=columns)
    (sample,) = load_pool(DatasetSpec(name="a", source=source, responses=["none"])).samples
    assert (sample.instruction, sample.responses["none"]) == ("Why?", "So.")


def test_rows_in_another_order_are_matched_by_text(tmp_path):
    shuffled = [ROWS[2], ROWS[0], ROWS[3], ROWS[1]]
    pool = load_pool(files(tmp_path, none=ROWS, simplified=shuffled))
    assert all(s.responses["simplified"] == s.responses["none"] for s in pool.samples)


def test_repeated_instructions_stay_distinct_rows(tmp_path):
    twice = [*ROWS, {**ROWS[0], "output": "second"}]
    moved = [twice[0], twice[4], *twice[1:4]]
    pool = load_pool(files(tmp_path, none=twice, simplified=moved))
    ids = [s.sample_id for s in pool.samples]
    assert len(set(ids)) == 5
    assert ids[4] == f"{ids[0]}-2"
    assert pool.samples[0].responses == {"none": "out 0", "simplified": "out 0"}
    assert pool.samples[4].responses == {"none": "second", "simplified": "second"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ROWS[:3], r"simplified\.json: has no row for the instruction of .*none\.json, row 4"),
        ([*ROWS, {**ROWS[0], "instruction": "New?"}], r"simplified\.json, row 5: .*'New\?'"),
        ([*ROWS[:3], {**ROWS[3], "instruction": "New?"}], r"row 4: 'Question 3\?'"),
    ],
)
def test_files_that_disagree_are_refused_by_row(tmp_path, other, message):
    with pytest.raises(UserError, match=message):
        load_pool(files(tmp_path, none=ROWS, simplified=other))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a"}, r"none\.json, row 5: has no column 'output'"),
        ({"instruction": "a", "output": "  "}, r"row 5: 'output' is empty"),
        ({"instruction": "", "output": "b"}, r"row 5: 'instruction' is empty"),
        ({"instruction": "a", "output": None}, r"row 5: 'output' is null"),
        ({"instruction": "a", "output": ["b"]}, r"row 5: 'output' is a list"),
        ({"instruction": "a", "output": "b", "input": ["c"]}, r"row 5: 'input' is a list"),
        (
            "text",
            r"row 5: a row must be an object with columns 'instruction' and 'output', not a text",
        ),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        load_pool(files(tmp_path, none=[*ROWS, row]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "holds no rows"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{oops', r"a\.jsonl, line 2: not valid"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.parquet", "no parquet", "not a readable Parquet"),
        ("a.txt", "x", "unknown kind of file"),
        ("absent.json", None, "no such file"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    source = FilesSource(responses={"none": str(path)})
    with pytest.raises(UserError, match=message):
        load_pool(DatasetSpec(name="a", source=source, responses=["none"]))


def test_another_number_of_rows_than_stated_is_refused(tmp_path):
    path = write(tmp_path / "a.json", ROWS)
    source = FilesSource(responses={"none": path}, checks={"rows": 500})
    with pytest.raises(UserError, match="has 4 rows, the configuration expects 500"):
        load_pool(DatasetSpec(name="a", source=source, responses=["none"]))


# ------------------------------------------------------------------------------ sampling


def test_more_samples_keep_those_one_had(gsm):
    few, more = choose(gsm, 8, seed=1), choose(gsm, 12, seed=1)
    assert len(few) == 8
    assert {s.sample_id for s in few} < {s.sample_id for s in more}
    assert [s.row for s in more] == sorted(s.row for s in more)


def test_a_sample_keeps_its_place_when_the_source_grows(gsm):
    larger = load_reasoning("gsm", ReasoningGymSource(rows=310, seed=3))
    kept = {s.sample_id for s in choose(gsm, 200, seed=1)}
    now = {s.sample_id for s in choose(larger, 200, seed=1)}
    assert len(kept & now) > 185


def test_seed_decides_the_choice(gsm):
    assert choose(gsm, 20, seed=1) == choose(gsm, 20, seed=1)
    assert choose(gsm, 20, seed=1) != choose(gsm, 20, seed=2)


def test_asking_for_more_than_there_is_gives_all(gsm):
    assert choose(gsm, 10_000, seed=0) == list(gsm.samples)
