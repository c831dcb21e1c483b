"""A cell of a data file is the text that stands there, or its row is refused or left out."""

from __future__ import annotations

import gzip
import json
import math

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from layergrad.cli import app
from layergrad.config import Columns, DatasetSpec, FilesSource, ReasoningGymSource
from layergrad.datasets.files import load_files, read_entries
from layergrad.datasets.pool import told_refusals
from layergrad.datasets.sources import load_pool
from layergrad.errors import UserError
from layergrad.plan import dataset_source
from layergrad.provenance import read_provenance
from tests.unit.test_datasets_build import MODEL

GOOD = '{"instruction": "q", "output": "a"}'


def texts(path, **options):
    """Return instruction and response of every row of a file."""
    samples = load_files("d", FilesSource(responses={"none": str(path)}, **options)).samples
    return [(sample.instruction, sample.responses["none"]) for sample in samples]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(*outputs):
    """Return the JSON of rows q0, q1, ... with these outputs, given as JSON."""
    items = (f'{{"instruction": "q{i}", "output": {text}}}' for i, text in enumerate(outputs))
    return f"[{', '.join(items)}]"


# ------------------------------------------------------------------------------ values

NO_TEXTS = [
    ("NaN", "is NaN"),
    ("Infinity", "is infinite"),
    ("-Infinity", "is infinite"),
    ("5.0", "is a number with a decimal"),
    ("12.50", "write it as text"),
    ("1e22", "write it as text"),
    ("true", "is true or false"),
    ("[1]", "is a list"),
    ('{"a": 1}', "is an object"),
    (r'"half \ud83d"', r"holds half a character \(\\ud83d\)"),
    (r'"\udc00"', "holds half a character"),
    (r'"a\u0000"', "holds a NUL character"),
]


@pytest.mark.parametrize(("value", "message"), [*NO_TEXTS, ("null", "is null"), ('""', "is empty")])
@pytest.mark.parametrize("column", ["instruction", "output"])
def test_a_value_that_is_no_text_is_named(tmp_path, column, value, message):
    row = json.loads(GOOD) | {column: "HERE"}
    content = f"[{GOOD}, {json.dumps(row)}]".replace('"HERE"', value)
    with pytest.raises(UserError, match=rf"a\.json, row 2: '{column}' ") as caught:
        texts(written(tmp_path / "a.json", content))
    assert caught.match(message)


@pytest.mark.parametrize(("value", "message"), NO_TEXTS)
def test_an_input_that_is_no_text_is_named(tmp_path, value, message):
    content = f'[{GOOD}, {{"instruction": "q", "input": {value}, "output": "a"}}]'
    with pytest.raises(UserError, match=r"a\.json, row 2: 'input' ") as caught:
        texts(written(tmp_path / "a.json", content))
    assert caught.match(message)


@pytest.mark.parametrize("value", ["5", "-0", "1" * 5000])
def test_integers_are_the_text_that_stands_there(tmp_path, value):
    row = f'{{"instruction": {value}, "input": {value}, "output": {value}}}'
    path = written(tmp_path / "a.json", f"[{row}]")
    assert texts(path) == [(f"{value}\n{value}", value)]


def test_integers_of_a_parquet_file_are_texts(tmp_path):
    frame = pl.DataFrame({"instruction": [1], "input": [2], "output": [3]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [("1\n2", "3")]


@pytest.mark.parametrize("gap", [None, math.nan])
def test_integers_that_a_gap_made_floats_are_integers(tmp_path, gap):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"instruction": ["a", "b", "c"], "output": [5.0, gap, -7.0]})
    frame.write_parquet(path)
    assert texts(path, bad_rows="skip") == [("a", "5"), ("c", "-7")]
    with pytest.raises(UserError, match=r"a\.parquet, row 2: 'output' is "):
        texts(path)


def test_an_input_column_with_gaps_keeps_its_integers(tmp_path):
    frame = pl.DataFrame({"instruction": ["a", "b"], "input": [5.0, None], "output": ["x", "y"]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [("a\n5", "x"), ("b", "y")]


@pytest.mark.parametrize("column", [[5.0, 7.0], [5.0, None, 7.5], [1e22, None]])
def test_other_floats_are_refused(tmp_path, column):
    frame = pl.DataFrame({"instruction": ["a", "b", "c"][: len(column)], "output": column})
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="write it as text"):
        texts(tmp_path / "a.parquet")


def test_a_missing_key_is_no_gap(tmp_path):
    content = f'[{GOOD}, {{"instruction": "q", "input": 5.0, "output": "a"}}]'
    with pytest.raises(UserError, match="row 2: 'input' is a number with"):
        texts(written(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    ("column", "message"),
    [(pl.Series([b"x"]), "is bytes"), (pl.Series([["x"]]), "is a list")],
)
def test_columns_of_other_types_are_named(tmp_path, column, message):
    pl.DataFrame({"instruction": ["a"], "output": column}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"row 1: 'output' {message}"):
        texts(tmp_path / "a.parquet")


def test_categories_are_texts(tmp_path):
    column = pl.Series(["x"], dtype=pl.Categorical)
    pl.DataFrame({"instruction": ["a"], "output": column}).write_parquet(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [("a", "x")]


def test_a_key_that_stands_twice_is_named(tmp_path):
    path = written(tmp_path / "a.json", '[{"instruction": "q", "output": "a", "output": "b"}]')
    with pytest.raises(UserError, match="row 1: has the key 'output' twice"):
        texts(path)


@pytest.mark.parametrize("columns", [{"input": "context"}, {"output": "answer"}])
def test_a_column_that_no_row_has_is_named_with_those_there_are(tmp_path, columns):
    path = written(tmp_path / "a.json", f"[{GOOD}]")
    with pytest.raises(UserError, match=r"has no column .* \(it has 'instruction', 'output'\)"):
        texts(path, columns=Columns(**columns), bad_rows="skip")


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["café", "cafe"])
def test_other_encodings_are_named(tmp_path, name, encoding, text):
    content = f'[\n{{"instruction": "q", "output": "{text}"}}\n]'.encode(encoding)
    if (encoding, text) == ("latin-1", "cafe"):
        assert texts(written(tmp_path / name, content)) == [("q", "cafe")]
        return
    where = "line 2: is not UTF-8" if encoding == "latin-1" else "is UTF-16"
    with pytest.raises(UserError, match=rf"{name}.*{where}.*save .* as UTF-8"):
        texts(written(tmp_path / name, content))


@pytest.mark.parametrize(("name", "content"), [("a.json", f"[{GOOD}]"), ("a.jsonl", GOOD)])
def test_a_byte_order_mark_is_nothing(tmp_path, name, content):
    assert texts(written(tmp_path / name, content.encode("utf-8-sig"))) == [("q", "a")]


def test_a_character_cut_at_the_end_is_named(tmp_path):
    content = f'{GOOD}\n{{"instruction": "q", "output": "é'.encode()[:-1]
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: is not UTF-8 \(unexpected end"):
        texts(written(tmp_path / "a.jsonl", content))


def test_only_newlines_separate_lines(tmp_path):
    text = "a\u2028b\u0085c\x1cd"
    line = json.dumps({"instruction": "q", "output": text}, ensure_ascii=False)
    assert texts(written(tmp_path / "a.jsonl", f"{line}\r\n{line}\n")) == [("q", text)] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", f"{GOOD}\n{GOOD}\n"),
        ("a.jsonl", f"[\n{GOOD},\n{GOOD}\n]"),
        ("a.ndjson", f" [{GOOD},{GOOD}] "),
    ],
)
def test_lists_and_lines_are_known_by_their_content(tmp_path, name, content):
    assert texts(written(tmp_path / name, content)) == [("q", "a")] * 2


DEEP = f'{{"instruction": "q", "output": {"[" * 100_000}{"]" * 100_000}}}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "holds no rows"),
        ("a.jsonl", "\ufeff", "holds no rows"),
        ("a.json", f'{{"data": [{GOOD}]}}', "holds one object, not a list of rows"),
        ("a.jsonl", f'{{"data":\n [{GOOD}]}}', "holds one object, not a list of rows"),
        ("a.json", f"[{GOOD}, {{", r"a\.json, row 2: not valid JSON"),
        ("a.json", f"[{GOOD} {GOOD}]", r"row 1: not valid JSON: Expecting ',' or '\]'"),
        ("a.json", f"[{GOOD}] x", "not valid JSON: Extra data"),
        ("a.json", f"[{GOOD}, {DEEP}]", r"a\.json, row 2: is nested too deeply"),
        ("a.jsonl", f"{GOOD}\n\n{DEEP}", r"a\.jsonl, line 3: is nested too deeply"),
        ("a.jsonl", f"{GOOD}\n\n{{oops", r"a\.jsonl, line 3: not valid JSON"),
        ("a.parquet", "", "not a readable Parquet file"),
    ],
)
def test_a_fault_of_a_file_is_named(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        texts(written(tmp_path / name, content))


@pytest.mark.parametrize("keep", [20, -40, -8])
def test_a_truncated_parquet_file_is_named(tmp_path, keep):
    pl.DataFrame({"instruction": ["a"], "output": ["b"]}).write_parquet(tmp_path / "b.parquet")
    path = written(tmp_path / "a.parquet", (tmp_path / "b.parquet").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file"):
        texts(path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_a_folder_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="is a folder"):
        texts(tmp_path / name)
    source = FilesSource(responses={"none": str(tmp_path / name)})
    with pytest.raises(UserError, match="is a folder"):
        dataset_source(DatasetSpec(name="d", source=source, responses=["none"]))


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a.json", f"[{GOOD}]")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(UserError, match=r"a\.json: could not be read: Permission denied"):
        texts(path)


def test_paths_may_hold_home_and_variables(tmp_path, monkeypatch):
    written(tmp_path / "a.json", f"[{GOOD}]")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_OF_THE_TEST", str(tmp_path))
    assert texts("~/a.json") == texts("${DATA_OF_THE_TEST}/a.json") == [("q", "a")]


# ------------------------------------------------------------------------------ bad rows


def test_a_bad_row_is_left_out_of_all_files(tmp_path):
    none = rows('"a0"', "null", '"a2"', '"a3"')
    long = rows('"b0"', '"b1"', "NaN", '"b3"')
    wrong = rows('"c0"', '"c1"', '"c2"', '"c3"')
    paths = [
        written(tmp_path / f"{n}.json", t) for n, t in zip("abc", (none, long, wrong), strict=True)
    ]
    source = FilesSource(
        responses={"none": str(paths[0]), "detailed": str(paths[1])},
        controls={"mine": {"none": str(paths[2])}},
        bad_rows="skip",
    )
    pool = load_files("d", source)
    assert [(s.row, s.instruction, s.responses, s.given) for s in pool.samples] == [
        (i, f"q{i}", {"none": f"a{i}", "detailed": f"b{i}"}, {"mine": {"none": f"c{i}"}})
        for i in (0, 3)
    ]
    assert pool.refused == {"'output' is null": 1, "'output' is NaN": 1}
    assert pool.first_refused == {
        "'output' is null": f"{paths[0]}, row 2",
        "'output' is NaN": f"{paths[1]}, row 3",
    }


def test_ids_do_not_move_when_a_row_is_bad(tmp_path):
    def ids(output):
        items = [{"instruction": "same", "output": text} for text in ("a", output, "c")]
        path = written(tmp_path / "a.json", json.dumps(items))
        source = FilesSource(responses={"none": str(path)}, bad_rows="skip")
        return [s.sample_id for s in load_files("d", source).samples]

    whole = ids("b")
    assert ids(None) == [whole[0], whole[2]]


@pytest.mark.parametrize("moved", [False, True])
def test_a_row_whose_instruction_is_bad_is_left_out_of_all_files(tmp_path, moved):
    items = [{"instruction": f"q{i}", "output": f"b{i}"} for i in range(4)]
    other = [*items[2:], *items[:2]] if moved else items
    for bad, good in (("a", "b"), ("b", "a")):
        spoilt = [
            {**item, "instruction": None} if item["output"] == "b1" else item for item in other
        ]
        written(tmp_path / f"{bad}.json", json.dumps(spoilt))
        written(tmp_path / f"{good}.json", json.dumps(items))
        paths = {"none": str(tmp_path / "a.json"), "detailed": str(tmp_path / "b.json")}
        pool = load_files("d", FilesSource(responses=paths, bad_rows="skip"))
        kept = {s.instruction: set(s.responses.values()) for s in pool.samples}
        assert kept == {f"q{i}": {f"b{i}"} for i in (0, 2, 3)}
        assert sum(pool.refused.values()) == 1
        with pytest.raises(UserError, match="'instruction' is null"):
            load_files("d", FilesSource(responses=paths))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (["q 1", "q 2", "z 3"], ["z 3", "? 1", "q 2"], {"z": "3"}),
        (["? 1", "q 2", "z 3"], ["z 3", "q 1", "q 2"], {"z": "3"}),
        (["q 1", "q 2", "? 3", "z 4"], ["z 4", "q 1", "? 2", "q 3"], {"z": "4"}),
        (["q 1", "q 2", "z 3", "y 4"], ["? 4", "z 3", "q 1", "q 2"], {"q": "12", "z": "3"}),
    ],
)
def test_repeated_instructions_are_never_paired_by_guess(tmp_path, first, second, kept):
    def file(name, entries):
        items = [entry.split() for entry in entries]
        rows = [{"instruction": None if i == "?" else i, "output": text} for i, text in items]
        return str(written(tmp_path / name, json.dumps(rows)))

    paths = {"none": file("a.json", first), "detailed": file("b.json", second)}
    pool = load_files("d", FilesSource(responses=paths, bad_rows="skip"))
    assert all(len(set(sample.responses.values())) == 1 for sample in pool.samples)
    found = {}
    for sample in pool.samples:
        found[sample.instruction] = found.get(sample.instruction, "") + sample.responses["none"]
    assert found == kept
    assert len(pool.samples) + sum(pool.refused.values()) == len(first)
    # the same holds for a file that adds a response
    source = FilesSource(responses={"none": paths["none"]}, bad_rows="skip")
    added = {"detailed": paths["detailed"]}
    spec = DatasetSpec(name="d", source=source, responses=["none", "detailed"], added=added)
    pool = load_pool(spec)
    assert {sample.instruction for sample in pool.samples} == set(kept)
    assert all(len(set(sample.responses.values())) == 1 for sample in pool.samples)
    assert len(pool.samples) + sum(pool.refused.values()) == len(first)


def test_a_bad_line_of_a_second_file_in_another_order_is_named(tmp_path):
    lines = [f'{{"instruction": "q{i}", "output": "a"}}' for i in range(3)]
    first = str(written(tmp_path / "a.jsonl", "\n".join(lines)))
    second = str(written(tmp_path / "b.jsonl", "\n".join([lines[2], "{torn", lines[0]])))
    whole = FilesSource(responses={"none": first, "detailed": second}, bad_rows="skip")
    half = FilesSource(responses={"none": first}, bad_rows="skip")
    spec = {"name": "d", "responses": ["none", "detailed"]}
    for pool in (
        load_files("d", whole),
        load_pool(DatasetSpec(**spec, source=half, added={"detailed": second})),
    ):
        assert [sample.instruction for sample in pool.samples] == ["q0", "q2"]
        ((reason, place),) = pool.first_refused.items()
        assert "not valid JSON" in reason
        assert place == f"{second}, line 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(GOOD.encode()), r"is compressed \(gzip\): decompress it"),
        (b"\x28\xb5\x2f\xfd..", r"is compressed \(zstd\): decompress it"),
        (b"PAR1..", "is a Parquet file"),
    ],
    ids=["gzip", "zstd", "parquet"],  # bytes of gzip hold the time, and workers would disagree
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, message):
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(UserError, match=message):
            texts(written(tmp_path / name, content))
    with pytest.raises(UserError, match="decompress it"):
        texts(written(tmp_path / "a.jsonl.gz", content))


def test_joined_files_may_each_begin_with_a_byte_order_mark(tmp_path):
    content = f"{GOOD}\n".encode("utf-8-sig") * 2 + "\ufeff\n".encode()
    assert texts(written(tmp_path / "a.jsonl", content)) == [("q", "a")] * 2


@pytest.mark.parametrize("row", ["5", "null", "1.5", '"text"', "[]"])
def test_a_row_that_is_no_object_is_named(tmp_path, row):
    message = "a row must be an object with columns 'instruction' and 'output', not "
    with pytest.raises(UserError, match=f"line 2: {message}"):
        texts(written(tmp_path / "a.jsonl", f"{GOOD}\n{row}"))
    with pytest.raises(UserError, match=f"row 2: {message}"):
        texts(written(tmp_path / "a.json", f"[{GOOD}, {row}]"))


def test_lines_and_rows_of_any_fault_are_skipped(tmp_path):
    content = "\n".join([GOOD, "{torn", DEEP, "[]", '{"instruction": "x"}', GOOD])
    path = written(tmp_path / "a.jsonl", content)
    assert texts(path, bad_rows="skip") == [("q", "a")] * 2
    faults = [entry.fault for entry in read_entries(path, bad_rows="skip") if entry.fault]
    assert [fault.place[-6:] for fault in faults] == ["line 2", "line 3", "line 4", "line 5"]


def test_only_bad_rows_are_an_error(tmp_path):
    path = written(tmp_path / "a.json", rows("null", "null"))
    message = r"no row can be used: 2 rows left out: 'output' is null \(first: .*a\.json, row 1\)"
    with pytest.raises(UserError, match=message):
        texts(path, bad_rows="skip")


def test_files_of_other_instructions_are_refused_also_where_rows_are_skipped(tmp_path):
    paths = {
        "none": str(written(tmp_path / "a.json", rows('"a"', "null"))),
        "detailed": str(written(tmp_path / "b.json", f"[{GOOD}, {GOOD}]")),
    }
    with pytest.raises(UserError, match="must hold the same instructions"):
        load_files("d", FilesSource(responses=paths, bad_rows="skip"))


def test_a_bad_row_of_an_added_response_is_counted(tmp_path):
    added = written(tmp_path / "b.json", rows('"b0"', "null"))
    source = FilesSource(
        responses={"none": str(written(tmp_path / "a.json", rows('"a0"', '"a1"')))},
        bad_rows="skip",
    )
    responses = ["none", "long"]
    spec = DatasetSpec(name="d", source=source, responses=responses, added={"long": str(added)})
    pool = load_pool(spec)
    assert [s.instruction for s in pool.samples] == ["q0"]
    assert pool.refused == {"'output' is null": 1}
    assert pool.first_refused == {"'output' is null": f"{added}, row 2"}


def test_what_was_left_out_is_told_everywhere(tmp_path):
    path = written(tmp_path / "a.json", rows('"a0"', "null", '"a2"', "null"))
    source = {"kind": "files", "responses": {"none": str(path)}, "bad_rows": "skip"}
    dataset = {"name": "d", "source": source, "responses": ["none"]}
    config = tmp_path / "study.yaml"
    config.write_text(
        yaml.safe_dump({"models": [MODEL], "datasets": [dataset], "controls": ["correct"]})
    )
    told = f"2 rows left out: 'output' is null (first: {path}, row 2)"
    built, audit = tmp_path / "d.parquet", tmp_path / "audit.parquet"

    def run(command, *arguments):
        done = CliRunner().invoke(
            app, [command, "--study", str(config), *map(str, arguments)], catch_exceptions=False
        )
        return done.output

    assert told in run("build", "--dataset", "d", "--output", built)
    assert read_provenance(built)["refused"] == {"'output' is null": 2}
    for _ in range(2):  # the second keeps what the first wrote
        assert f"d: {told}" in run("audit", "--samples", built, "--output", audit)
    assert read_provenance(audit)["left_out"] == {"d": [told]}
    counted = pl.read_parquet(audit).filter(measure="left_out")
    assert counted["value"].to_list() == [2]


def test_the_first_of_many_reasons_are_told():
    lines = told_refusals({f"reason {i}": 2 for i in range(15)}, {"reason 0": "row 3"})
    assert lines[0] == "2 rows left out: reason 0 (first: row 3)"
    assert lines[10:] == ["10 rows left out for other reasons"]


# ------------------------------------------------------------------------------ keys


def test_the_installed_generator_decides_the_key(monkeypatch):
    def content(version=None):
        source = ReasoningGymSource(rows=2, version=version)
        return dataset_source(DatasetSpec(name="d", source=source, responses=["none"]))

    monkeypatch.setattr("layergrad.plan.version", lambda _: "1.0")
    first = content()
    assert first == content("1.0")
    monkeypatch.setattr("layergrad.plan.version", lambda _: "2.0")
    assert first != content()
