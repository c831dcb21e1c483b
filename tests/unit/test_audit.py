"""The audit counts the defects that a data set was given, and none in our own controls."""

from __future__ import annotations

import polars as pl
import pytest
from typer.testing import CliRunner

from layergrad.cli import app
from layergrad.datasets.audit import MEASURES, audit, audit_tokens, problems, wide
from layergrad.datasets.build import build_dataset
from layergrad.datasets.sentences import doubled_punctuation, fragments
from layergrad.errors import UserError
from layergrad.models.encode import Encoded, SampleError
from layergrad.tables import AUDIT, read_table
from tests.unit.test_datasets_build import study

RIGHT = [
    ("q0", "no", "The bear lives in the far north.\nIt is cold there.\nThe final answer is no"),
    ("q1", "yes", "A sofer writes upon vellum skins.\nThe final answer is yes"),
    ("q1", "yes", "Vellum is made of the skin of calves.\nThe final answer is yes"),
]
WRONG = [
    # the right answer, an own sentence, doubled punctuation, a lost line break
    (
        "q0",
        "no",
        "The bear lives in the far north. , Other words\nThe final answer is no",
    ),
    ("q1", "no", "Quite another sentence about trees.\nThe final answer is no"),
    ("q1", "yes", "Quite another sentence about seas.\nThe final answer is yes"),
]


def table(texts_by_control):
    rows = [
        {
            "sample_id": f"s{i}",
            "row": i,
            "dataset": "d",
            "response": response,
            "control": control,
            "instruction": instruction,
            "response_text": text,
        }
        for control, entries in texts_by_control.items()
        for i, (instruction, none, simplified) in enumerate(entries)
        for response, text in (("none", none), ("simplified", simplified))
    ]
    return pl.DataFrame(rows, schema_overrides={"row": pl.Int32})


def measured(frame, response, control):
    found = frame.filter((pl.col("response") == response) & (pl.col("control") == control))
    return dict(zip(found["measure"], found["value"], strict=True))


def test_defects_are_counted():
    frame = audit(table({"correct": RIGHT, "bad": WRONG}))
    none = measured(frame, "none", "bad")
    assert (none["rows"], none["duplicates"]) == (3, 1)
    assert (none["answers"], none["same_answer"]) == (3, 2)
    assert "own_sentences" not in none
    simplified = measured(frame, "simplified", "bad")
    assert (simplified["answers"], simplified["same_answer"]) == (3, 2)
    assert simplified["own_sentences"] == 1
    assert simplified["doubled_punctuation"] == 1
    assert simplified["line_breaks_changed"] == 1
    correct = measured(frame, "simplified", "correct")
    assert correct["doubled_punctuation"] == 0
    assert correct["line_breaks"] == pytest.approx(4 / 3, abs=1e-6)
    assert correct["words"] == 13
    assert "same_answer" not in correct


def test_unclosed_texts_are_counted():
    texts = ["It ends here.", "It ends somewhere in the", "A list:", "It is \\(x\\)"]
    frame = audit(table({"correct": [(f"q{i}", "a", t) for i, t in enumerate(texts)]}))
    assert measured(frame, "simplified", "correct")["unclosed"] == 2


def test_the_closing_line_is_not_a_leak():
    entries = [("q", "no", "Words of one kind are these.\nThe final answer is no")]
    others = [("q", "no", "Words of the other sort, those.\nThe final answer is no")]
    frame = audit(table({"correct": entries, "bad": others}))
    assert measured(frame, "simplified", "bad")["own_sentences"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came. , then left", True),
        ("He came.. Then left", True),
        ("What!. No", True),
        ("One,, two", True),
        ("Well... it is", False),
        ("e.g., this", False),
        ("it is .5 or 0.5, 3. .", True),
        ("see http://x.org: yes", False),
        ("What?! Yes", False),
    ],
)
def test_doubled_punctuation(text, expected):
    assert doubled_punctuation(text) is expected


def test_fragments_cut_within_names_and_lines_and_leave_out_short_ones():
    text = "Ask J. K. Rowling about all of it.\nConclusion:\n== References and notes =="
    assert fragments(text) == {"Rowling about all of it"}


@pytest.mark.parametrize("name", ["gsm_symbolic", "knowledge"])
def test_our_own_controls_have_no_defect(name):
    frame, _ = build_dataset(study(datasets=[name], samples=200), name)
    table = audit(frame)
    ours = table.filter(pl.col("control") == "irrelevant")
    values = ours.group_by("measure").agg(pl.col("value").sum())
    total = dict(values.iter_rows())
    for defect in ("same_answer", "own_sentences", "doubled_punctuation", "line_breaks_changed"):
        assert total[defect] == 0, defect
    ratios = ours.filter((pl.col("measure") == "length_ratio") & (pl.col("response") != "none"))
    assert ((ratios["value"] - 1).abs() < 0.05).all()
    if name == "gsm_symbolic":
        assert total["answers"] == 3 * ours.filter(pl.col("measure") == "rows")["value"][0]


def test_the_authors_way_is_found_to_have_defects():
    frame, _ = build_dataset(
        study(controls=["correct", "mosaic_paper"], samples=200), "gsm_symbolic"
    )
    found = measured(audit(frame), "simplified", "mosaic_paper")
    assert found["line_breaks_changed"] > 100


class Characters:
    """An encoder with one token a character."""

    max_length = 20
    tokenizer = staticmethod(lambda text: {"input_ids": list(text)})

    def prompt(self, instruction):
        return instruction + "\n"

    def encode(self, instruction, text):
        start, ids = len(instruction) + 1, instruction + "\n" + text
        if start >= self.max_length:
            raise SampleError("no_response_tokens", "too long")
        return Encoded(tuple(map(ord, ids[: self.max_length])), start, len(ids))


def test_what_should_not_be_is_told_line_by_line():
    found = problems(audit(table({"correct": RIGHT, "irrelevant": WRONG})))
    assert "d none.correct: 1 rows whose instruction occurred before" in found
    assert "d simplified.irrelevant: 1 rows with punctuation after punctuation" in found
    assert not any("line breaks" in line for line in found)


def test_tokens_are_counted_per_model():
    entries = [
        ("q0", "no", "short"),
        ("q1", "no", "a text of many characters"),
        ("q" * 30, "a", "b"),
    ]
    frame = audit_tokens(table({"correct": entries}), "m", Characters())
    found = measured(frame, "simplified", "correct")
    assert set(frame["model"]) == {"m"}
    assert found["longest"] == 32
    assert found["too_long"] == 2
    assert found["no_response_tokens"] == 1
    assert found["response_tokens"] == (5 + 17) / 2


def test_command_writes_and_prints(tmp_path):
    import yaml

    from tests.unit.test_datasets_build import MODEL

    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({"models": [MODEL], "datasets": ["knowledge"], "samples": 3}))
    output = tmp_path / "audit.parquet"
    arguments = ["audit", "--study", str(config), "--output", str(output)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "own_sentences" in done.output
    written = read_table(output, AUDIT)
    assert set(written["measure"]) <= set(MEASURES)
    assert wide(written).height == 6
    assert "no problems found" in done.output


def test_an_audit_keeps_the_parts_that_are_right(tmp_path, monkeypatch):
    import yaml

    from layergrad.config import load_study
    from layergrad.datasets import audit as module
    from layergrad.plan import Plan
    from layergrad.provenance import recorded_key
    from layergrad.results import audited_parts
    from tests.unit.test_datasets_build import MODEL

    def run(*arguments, **changes):
        keys = {"models": [MODEL], "datasets": ["knowledge"], "samples": 3, **changes}
        config.write_text(yaml.safe_dump(keys))
        command = ["audit", "--study", str(config), "--output", str(output), *arguments]
        done = CliRunner().invoke(app, command)
        return done, Plan(load_study(config))

    config, output = tmp_path / "study.yaml", tmp_path / "audit.parquet"
    done, plan = run()
    assert done.exit_code == 0
    assert list(audited_parts(plan, output)) == ["knowledge/"]
    assert recorded_key(output) != plan.audit_key  # the model's tokens are not in it
    seen = []
    monkeypatch.setattr(module, "audit", lambda built: seen.append(built) or audit(built))
    _, plan = run(datasets=["knowledge", "gsm_symbolic"])
    assert [frame["dataset"].unique().to_list() for frame in seen] == [["gsm_symbolic"]]
    assert list(audited_parts(plan, output)) == ["knowledge/", "gsm_symbolic/"]
    assert set(read_table(output, AUDIT)["dataset"]) == {"knowledge", "gsm_symbolic"}

    run(samples=4)
    assert set(read_table(output, AUDIT)["dataset"]) == {"knowledge"}
    refused, _ = run("--samples", str(output))
    assert isinstance(refused.exception, UserError)
    assert "no dataset of this study" in str(refused.exception)
