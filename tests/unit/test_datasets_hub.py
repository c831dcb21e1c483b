"""Data sets in the hub's format are read by `datasets` and mapped to instructions and responses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from layergrad.config import DatasetSpec, HubDataSource, resolve_study
from layergrad.datasets.hub import load_hub
from layergrad.datasets.sources import load_pool
from layergrad.errors import UserError
from layergrad.plan import Plan
from tests.unit.test_datasets_build import MODEL

SPARE = {"level", "views"}  # columns that no mapping needs
WORDS = "Alpha beta gamma delta epsilon zeta eta theta iota kappa. "  # ten words

ROWS = {
    "gsm8k": [
        {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6 eggs.\n#### 6"},
        {"question": "How much?", "answer": "It is 1,200 in all.\n#### 1,200"},
    ],
    "aqua": [
        {"question": "Sum?", "options": ["A)21", "B)22"], "rationale": "10+11=21", "correct": "A"},
        {"question": "Odd?", "options": ["A)3", "B)4"], "rationale": " ", "correct": "A"},
    ],
    "strategyqa": [
        {"question": "Is it so?", "answer": True, "facts": "It is known."},
        {"question": "Was it so?", "answer": False, "facts": "It was not known."},
    ],
    "ecqa": [
        {
            "q_text": "Where is it?",
            **{f"q_op{i}": f"place {i}" for i in range(1, 6)},
            "q_ans": "place 3",
            "taskB": "It is there because of this.",
        }
    ],
    "creak": [
        {"sentence": "A hill is a person.", "label": "false", "explanation": "It is a hill."}
    ],
    "comve": [
        {"sent0": "He ate a stone.", "sent1": "He ate.", "label": 0, "reason": "Stones are hard."}
    ],
    "math": [{"problem": "Find $x$.", "solution": "We see $x=\\boxed{4}$.", "level": "1"}],
    "wikipedia": [
        {"title": "Long", "text": WORDS * 120, "views": 900},
        {"title": "Middle", "text": WORDS * 60, "views": 50},
        {"title": "Short", "text": WORDS * 15, "views": 3},
        {"title": "Tiny", "text": WORDS, "views": 1},
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def folder(tmp_path, rows, config="main"):
    """Write a data set as the hub stores it: files, and a card that lists them."""
    (tmp_path / "set").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: train\n"
    (tmp_path / "set" / "README.md").write_text(f"{card}    path: train.jsonl\n---\n")
    return str(tmp_path / "set")


def pool(tmp_path, mapping, responses, **options):
    where = folder(tmp_path, ROWS[mapping])
    source = HubDataSource(id=where, config="main", mapping=mapping, **options)
    return load_pool(DatasetSpec(name="d", source=source, responses=responses))


@pytest.mark.parametrize(
    ("mapping", "instruction", "none", "simplified"),
    [
        ("gsm8k", "How many?", "6", "She has 2*3=6 eggs.\nThe final answer is 6"),
        (
            "aqua",
            "Sum?\nOptions:\n(A) 21\n(B) 22",
            "(A)",
            "10+11=21\nThe final answer is (A)",
        ),
        ("strategyqa", "Is it so?", "yes", "It is known.\nThe final answer is yes"),
        (
            "ecqa",
            "Where is it?\nOptions:\n- place 1\n- place 2\n- place 3\n- place 4\n- place 5",
            "place 3",
            "It is there because of this.\nThe final answer is place 3",
        ),
        (
            "creak",
            'Is the following claim true or false?\n"A hill is a person."',
            "false",
            "It is a hill.\nThe final answer is false",
        ),
        (
            "comve",
            "Which of the following two sentences does not make sense?\nOptions:\n"
            '- Sentence A: "He ate a stone."\n- Sentence B: "He ate."',
            "Sentence A",
            "Stones are hard.\nThe final answer is Sentence A",
        ),
    ],
)
def test_rows_are_mapped(tmp_path, mapping, instruction, none, simplified):
    sample = pool(tmp_path, mapping, ["none", "simplified"]).samples[0]
    assert sample.instruction == instruction
    assert sample.responses == {"none": none, "simplified": simplified}
    assert sample.answer == none


def test_math_has_its_solution_and_boxed_answer(tmp_path):
    (sample,) = pool(tmp_path, "math", ["simplified"]).samples
    assert sample.responses == {"simplified": "We see $x=\\boxed{4}$."}
    assert sample.answer == "4"


def test_rows_that_cannot_be_mapped_are_counted(tmp_path):
    found = pool(tmp_path, "aqua", ["none", "simplified"])
    assert len(found.samples) == 1
    assert found.refused == {"no explanation": 1}


WHOLE = {name: rows[0] for name, rows in ROWS.items()}


@pytest.mark.parametrize("value", [None, 5.5, ["x", None], {"a": 1}, "", "\ud83d", "\0"])
@pytest.mark.parametrize(
    ("mapping", "column"), [(m, c) for m, row in WHOLE.items() for c in row if c not in SPARE]
)
def test_a_cell_that_is_no_text_leaves_its_row_out(monkeypatch, mapping, column, value):
    import datasets

    rows = [WHOLE[mapping], {**WHOLE[mapping], column: value}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    source = HubDataSource(id="o/n", revision="0" * 40, mapping=mapping)
    found = load_hub("d", source)
    assert [sample.row for sample in found.samples] == [0]
    assert list(found.refused.values()) == [1]
    assert list(found.first_refused.values()) == ["row 2"]
    strict = source.model_copy(update={"bad_rows": "refuse"})
    with pytest.raises(UserError, match=r"d: o/n, row 2: .*`bad_rows: skip`"):
        load_hub("d", strict)


@pytest.mark.parametrize(
    ("mapping", "cell", "answer"),
    [
        ("strategyqa", {"answer": "false"}, "no"),
        ("strategyqa", {"answer": 1}, "yes"),
        ("creak", {"label": True}, "true"),
        ("creak", {"label": 0.0}, "false"),
        ("comve", {"label": "1"}, "Sentence B"),
        ("comve", {"label": -1}, None),
        ("creak", {"label": "perhaps"}, None),
        ("aqua", {"correct": "F"}, None),
        ("aqua", {"options": ["21", "22"]}, None),
        ("aqua", {"options": ["A)21", "C)22", "B)23"]}, None),
        ("aqua", {"options": ["A)21", "A)22"]}, None),
        ("aqua", {"options": ["(A) 21", "(B) 22"]}, "(A)"),
        ("gsm8k", {"answer": "no mark"}, None),
        ("gsm8k", {"answer": "worked #### "}, None),
        ("gsm8k", {"answer": "#### 5"}, None),
        ("gsm8k", {"answer": 4}, None),
    ],
)
def test_labels_are_read_or_refused(monkeypatch, mapping, cell, answer):
    import datasets

    rows = [{**WHOLE[mapping], **cell}, WHOLE[mapping]]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    found = load_hub("d", HubDataSource(id="o/n", revision="0" * 40, mapping=mapping))
    answers = [sample.answer for sample in found.samples if sample.row == 0]
    assert answers == ([answer] if answer else [])


@pytest.mark.parametrize("value", [4, 0, True, b"x", 10**30])
@pytest.mark.parametrize(("mapping", "column"), [(m, c) for m, row in WHOLE.items() for c in row])
def test_a_cell_of_any_type_is_read_or_counted(monkeypatch, mapping, column, value):
    import datasets

    rows = [WHOLE[mapping], {**WHOLE[mapping], column: value}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    found = load_hub("d", HubDataSource(id="o/n", revision="0" * 40, mapping=mapping))
    assert len(found.samples) + sum(found.refused.values()) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_an_empty_file_is_a_message(tmp_path, streaming):
    where = folder(tmp_path, [])
    source = HubDataSource(id=where, config="main", mapping="gsm8k", streaming=streaming)
    with pytest.raises(UserError, match=r"d: .*holds no rows"):
        load_hub("d", source)


def test_nulls_of_a_folder_are_counted(tmp_path):
    where = folder(tmp_path, [*ROWS["gsm8k"], {"question": "Which?", "answer": None}])
    found = load_hub("d", HubDataSource(id=where, config="main", mapping="gsm8k"))
    assert (len(found.samples), found.refused) == (2, {"'answer' is null": 1})


def test_views_that_are_no_number_are_counted(tmp_path):
    where = folder(tmp_path, [*ROWS["wikipedia"], {**WHOLE["wikipedia"], "views": None}])
    source = HubDataSource(id=where, config="main", mapping="wikipedia", min_views=100)
    found = load_hub("d", source)
    assert (len(found.samples), found.refused) == (1, {"'views' is no number": 1})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("second", ['{"question": "q", "other": 1}', "{torn"])
def test_files_that_do_not_go_together_are_a_message(tmp_path, streaming, second):
    where = tmp_path / "set"
    where.mkdir()
    (where / "train-0.jsonl").write_text(json.dumps(ROWS["gsm8k"][0]))
    (where / "train-1.jsonl").write_text(second)
    source = HubDataSource(id=str(where), mapping="gsm8k", streaming=streaming)
    with pytest.raises(UserError, match=r"d: .*set: could not be read \(.*the same columns"):
        load_hub("d", source)


def test_titles_are_lines_of_utf8(tmp_path):
    where = folder(tmp_path, [{"title": "A\u2028B", "text": WORDS * 15}, ROWS["wikipedia"][0]])
    titles = tmp_path / "titles.txt"
    titles.write_bytes("\ufeffA\u2028B\t5\r\nLong\r\n".encode())
    source = HubDataSource(id=where, config="main", mapping="wikipedia", titles=str(titles))
    assert len(load_hub("d", source).samples) == 2
    titles.write_bytes("Caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"titles\.txt, line 1: is not UTF-8"):
        load_hub("d", source)


def test_articles_are_cut_by_words_and_short_ones_left_out(tmp_path):
    found = pool(tmp_path, "wikipedia", ["len100", "len500", "len1000"])
    assert [s.instruction for s in found.samples] == ["Tell me about Long."]
    assert {r: len(t.split()) for r, t in found.samples[0].responses.items()} == {
        "len100": 100,
        "len500": 500,
        "len1000": 1000,
    }
    assert found.refused == {
        "shorter than the shortest response": 1,
        "there is no response 'len500'": 1,
        "there is no response 'len1000'": 1,
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_articles_are_chosen_by_views(tmp_path, streaming):
    found = pool(tmp_path, "wikipedia", ["len100"], max_views=60, streaming=streaming)
    assert [s.instruction for s in found.samples] == [
        "Tell me about Middle.",
        "Tell me about Short.",
    ]


def test_articles_are_chosen_by_title(tmp_path):
    titles = tmp_path / "titles.txt"
    titles.write_text("Long\t900\nAbsent\t20\n")
    found = pool(tmp_path, "wikipedia", ["len100"], titles=str(titles))
    assert [s.instruction for s in found.samples] == ["Tell me about Long."]
    assert found.refused == {"a wanted title is not in the data set": 1}


def test_columns_can_be_renamed(tmp_path):
    where = folder(tmp_path, [{"q": "How many?", "a": "Three.\n#### 3"}])
    columns = {"question": "q", "answer": "a"}
    source = HubDataSource(id=where, config="main", mapping="gsm8k", columns=columns)
    found = load_pool(DatasetSpec(name="d", source=source, responses=["none"]))
    assert found.samples[0].responses["none"] == "3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "other"}, r"BuilderConfig 'other' not found"),
        ({"split": "tst"}, r"Unknown split \"tst\""),
        ({"mapping": "aqua"}, r"has no column 'options' \(it has question, answer\)"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, changes, message):
    where = folder(tmp_path, ROWS["gsm8k"])
    source = HubDataSource(**{"id": where, "config": "main", "mapping": "gsm8k", **changes})
    with pytest.raises(UserError, match=message):
        load_pool(DatasetSpec(name="d", source=source, responses=["none"]))


class StatusError(Exception):
    """What clients of the hub raise: an error with the response."""

    def __init__(self, status):
        super().__init__(f"{status} Client Error")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach 'owner/name' on the Hub"), "go online, set HF_ENDPOINT"),
        (TimeoutError("timed out"), "go online, set HF_ENDPOINT"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer"),
        (StatusError(401), "private or gated"),
        (StatusError(403), "private or gated"),
        (StatusError(404), "there is no such data set or revision"),
        (StatusError(503), "go online, set HF_ENDPOINT"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_an_unreachable_hub_is_a_message(monkeypatch, error, message, is_late):
    import datasets

    def refuse():
        yield {**WHOLE["gsm8k"]}
        raise error

    def load(*args, **options):
        if is_late:
            return refuse()
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = HubDataSource(id="owner/name", revision="0" * 40, mapping="gsm8k")
    with pytest.raises(UserError, match=message):
        load_pool(DatasetSpec(name="d", source=source, responses=["none"]))


def test_a_hub_source_needs_a_revision():
    with pytest.raises(ValidationError, match="give the revision"):
        HubDataSource(id="owner/name", mapping="gsm8k")


# ------------------------------------------------------------------------------ added responses


def test_added_responses_are_matched_and_incomplete_rows_left_out(tmp_path):
    added = tmp_path / "detailed.jsonl"
    added.write_text(
        json.dumps({"instruction": "How many?", "output": "Long.\nThe final answer is 6"})
    )
    where = folder(tmp_path, ROWS["gsm8k"])
    source = HubDataSource(id=where, config="main", mapping="gsm8k")
    responses = ["none", "simplified", "detailed"]
    spec = DatasetSpec(name="d", source=source, responses=responses, added={"detailed": str(added)})
    found = load_pool(spec)
    assert len(found.samples) == 1
    assert found.samples[0].responses["detailed"].startswith("Long.")
    assert found.refused == {"there is no response 'detailed'": 1}

    study = resolve_study({"models": [MODEL], "datasets": [spec.model_dump(mode="json")]})
    before = Plan(study).dataset_key("d")
    added.write_text(json.dumps({"instruction": "How many?", "output": "Other."}))
    assert Plan(study).dataset_key("d") != before
    added.unlink()
    with pytest.raises(UserError, match="layergrad teach"):
        Plan(study).dataset_key("d")


def test_content_of_a_local_folder_decides_the_key(tmp_path):
    where = folder(tmp_path, ROWS["gsm8k"])
    dataset = {
        "name": "d",
        "source": {"kind": "hub", "id": where, "config": "main", "mapping": "gsm8k"},
        "responses": ["none"],
    }
    study = resolve_study({"models": [MODEL], "datasets": [dataset]})
    before = Plan(study).dataset_key("d")
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(ROWS["gsm8k"][0]))
    assert Plan(study).dataset_key("d") != before
