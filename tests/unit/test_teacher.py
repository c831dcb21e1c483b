"""The teacher's answers are stored as they arrive and never asked for twice, whatever fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from layergrad.cli import app
from layergrad.config import TeacherSettings
from layergrad.datasets import teacher
from layergrad.datasets.files import read_entries
from layergrad.datasets.pool import Row, make_pool
from layergrad.errors import UserError
from tests.faulty_proxy import FaultyProxy
from tests.unit.test_datasets_build import MODEL

KEY = "sk-secret-of-the-test"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(teacher, "LONGEST_WAIT", 0.05)


def settings(proxy, **changes):
    return TeacherSettings(
        **{"base_url": proxy.url, "model": "m", "prompt": "{instruction}", "timeout": 1, **changes}
    )


def samples(n=6):
    return list(make_pool("d", [Row(i, f"q{i}", {"none": "4"}) for i in range(n)]).samples)


def lines(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def prompts(bodies):
    return sorted(body["messages"][-1]["content"] for body in bodies)


def test_answers_are_written_and_never_asked_twice(tmp_path):
    output = tmp_path / "d.jsonl"
    with FaultyProxy() as proxy:
        counts, problem = teacher.teach(settings(proxy), samples(4), output)
        assert problem is None
        assert (counts["right"], counts["written"], counts["requests"]) == (4, 4, 4)
        assert [row["instruction"] for row in lines(output)] == ["q0", "q1", "q2", "q3"]
        assert lines(output)[0]["output"] == "About q0.\nThe final answer is 4"
        counts, _ = teacher.teach(settings(proxy), samples(6), output)
        assert counts["requests"] == 2
    assert prompts(proxy.asked) == [f"q{i}" for i in range(6)]
    assert set(proxy.keys) == {f"Bearer {KEY}"}


def test_what_is_asked_is_what_was_configured(tmp_path):
    with FaultyProxy() as proxy:
        changes = {"system": "Be slow.", "prompt": "Solve: {instruction} {x}", "temperature": 0.5}
        teacher.teach(settings(proxy, **changes), samples(1), tmp_path / "d.jsonl")
    (body,) = proxy.asked
    assert body["messages"] == [
        {"role": "system", "content": "Be slow."},
        {"role": "user", "content": "Solve: q0 {x}"},
    ]
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 0, 1024)


@pytest.mark.parametrize("fault", ["429", "500", "503", "slow", "cut"])
def test_passing_faults_are_asked_again(tmp_path, fault):
    with FaultyProxy(faults=[fault, "ok", fault]) as proxy:
        counts, problem = teacher.teach(settings(proxy), samples(4), tmp_path / "d.jsonl")
    assert problem is None
    assert (counts["right"], counts["requests"]) == (4, 6)
    assert prompts(proxy.answered) == ["q0", "q1", "q2", "q3"]


def test_an_answer_is_given_up_after_so_many_attempts(tmp_path):
    output = tmp_path / "d.jsonl"
    with FaultyProxy(faults=["500"] * 3) as proxy:
        asked = settings(proxy, attempts=3, concurrency=1)
        counts, problem = teacher.teach(asked, samples(2), output)
        assert (counts["missing"], counts["right"]) == (1, 1)
        assert "1 answers were given up after 3 attempts" in problem
        counts, problem = teacher.teach(asked, samples(2), output)
        assert problem is None
        assert counts["requests"] == 1
    assert KEY not in problem if problem else True


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "refuses the key: check the environment"),
        ("400", "refuses the request"),
        ("404", "fault for"),
    ],
)
def test_a_refusal_for_good_stops_and_tells_no_key(tmp_path, fault, message):
    with FaultyProxy(faults=["ok", fault]) as proxy:
        asked = settings(proxy, concurrency=1)
        with pytest.raises(UserError, match=message) as caught:
            teacher.teach(asked, samples(4), tmp_path / "d.jsonl")
        assert KEY not in str(caught.value)
        assert len(proxy.asked) == 2
        counts, _ = teacher.teach(asked, samples(4), tmp_path / "d.jsonl")
    assert counts["requests"] == 3


def test_the_key_is_in_no_file(tmp_path):
    with FaultyProxy(faults=["500"]) as proxy:
        teacher.teach(settings(proxy), samples(2), tmp_path / "d.jsonl")
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_budget_counts_every_request(tmp_path):
    with FaultyProxy(faults=["500"]) as proxy:
        asked = settings(proxy, max_requests=3, concurrency=1)
        counts, problem = teacher.teach(asked, samples(4), tmp_path / "d.jsonl")
    assert (counts["requests"], counts["right"], counts["missing"]) == (3, 2, 2)
    assert "the budget of 3 requests is spent" in problem
    assert len(proxy.asked) == 3


def test_concurrency_and_pace_are_kept(tmp_path):
    slowly = lambda prompt: time.sleep(0.1) or f"{prompt}\nThe final answer is 4"  # noqa: E731
    with FaultyProxy(reply=slowly) as proxy:
        teacher.teach(settings(proxy, concurrency=2), samples(6), tmp_path / "a.jsonl")
        assert proxy.most_under_way == 2
    with FaultyProxy() as proxy:
        asked = settings(proxy, requests_per_minute=600)
        teacher.teach(asked, samples(4), tmp_path / "b.jsonl")
    gaps = [b - a for a, b in zip(sorted(proxy.times), sorted(proxy.times)[1:], strict=False)]
    assert min(gaps) > 0.05
    assert sum(gaps) > 0.25


REPLIES = {
    "q0": "Well.\nThe final answer is 4",
    "q1": "Well.\nThe final answer is 5",
    "q2": "It goes on and on...",
    "q3": "No answer here.",
    "q4": "",
}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, ["q0", "q3"]),
        ({"wrong": "keep"}, ["q0", "q1", "q3"]),
        ({"unfinished": "keep"}, ["q0", "q2", "q3"]),
    ],
)
def test_answers_are_judged_and_dropped_by_config(tmp_path, changes, kept):
    output = tmp_path / "d.jsonl"
    with FaultyProxy(reply=REPLIES.get) as proxy:
        counts, _ = teacher.teach(settings(proxy, **changes), samples(5), output)
    states = ("right", "wrong", "unfinished", "unknown", "empty")
    assert [counts[state] for state in states] == [1] * 5
    assert [row["instruction"] for row in lines(output)] == kept
    assert len(lines(teacher.store_of(output))) == 5


def test_other_questions_are_asked_anew(tmp_path):
    with FaultyProxy() as proxy:
        for changes in ({}, {"temperature": 1.0}, {}, {"prompt": "Why {instruction}"}):
            teacher.teach(settings(proxy, **changes), samples(2), tmp_path / "d.jsonl")
    assert len(proxy.asked) == 6


def test_a_line_cut_by_a_crash_is_asked_again(tmp_path, capsys):
    output = tmp_path / "d.jsonl"
    with FaultyProxy() as proxy:
        teacher.teach(settings(proxy), samples(3), output)
        store = teacher.store_of(output)
        store.write_bytes(store.read_bytes()[:-20])
        counts, _ = teacher.teach(settings(proxy), samples(3), output)
    assert (counts["requests"], counts["right"]) == (1, 3)
    assert len(lines(store)) == 3
    assert "the last line was cut off; its answer is asked for again" in capsys.readouterr().err


def test_two_runs_on_one_store_are_refused(tmp_path):
    store = tmp_path / "d.answers.jsonl"
    with (
        teacher.opened_store(store),
        pytest.raises(UserError, match="another `layergrad teach`"),
        teacher.opened_store(store),
    ):
        pass


def test_a_missing_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FaultyProxy() as proxy:
        with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
            teacher.teach(settings(proxy), samples(1), tmp_path / "d.jsonl")
        teacher.teach(settings(proxy, key_variable=None), samples(1), tmp_path / "d.jsonl")
    assert proxy.keys == ["Bearer none"]


def test_a_prompt_must_hold_the_instruction():
    with pytest.raises(ValidationError, match=r"must contain .instruction"):
        TeacherSettings(prompt="Solve it.")


# ------------------------------------------------------------------------------ what may come


def whole(content, finish="stop", **message):
    """Return status and body of a reply with this content."""
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return 200, {"id": "x", "object": "chat.completion", "created": 0, "choices": [choice]}


def refusal(status, message, code=None):
    return status, {"error": {"message": message, "code": code, "type": "error"}}


END = "\nThe final answer is 4"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n"])
def test_answers_with_any_line_break_are_read_again(tmp_path, mark):
    output = tmp_path / "d.jsonl"
    with FaultyProxy(reply=lambda prompt: f"We{mark}add.{END}") as proxy:
        for _ in range(2):
            counts, problem = teacher.teach(settings(proxy), samples(2), output)
            assert (counts["right"], problem) == (2, None)
    assert len(proxy.asked) == 2
    assert [e.response for e in read_entries(output)] == [f"We{mark}add.{END}"] * 2


@pytest.mark.parametrize("text", ["Half \ud83d", "A NUL \0"])
def test_an_answer_that_is_no_text_is_kept_and_not_written(tmp_path, text):
    replies = {"q0": whole(text), "q1": f"Yes.{END}"}
    with FaultyProxy(reply=replies.get) as proxy:
        for _ in range(2):
            counts, _ = teacher.teach(settings(proxy), samples(2), tmp_path / "d.jsonl")
            assert (counts["unusable"], counts["right"], counts["written"]) == (1, 1, 1)
    assert len(proxy.asked) == 2


NO_ANSWERS = [
    refusal(200, "Provider returned error", 502),
    (200, {"choices": []}),
    (200, {"choices": None, "usage": "none"}),
    (200, {"choices": [{"finish_reason": "stop"}]}),
    (200, {"choices": ["text"]}),
    (200, ["text"]),
    (200, "text"),
    (200, None),
]


@pytest.mark.parametrize("reply", NO_ANSWERS)
def test_a_reply_without_an_answer_is_asked_again_then_given_up(tmp_path, reply):
    replies = [reply, f"Yes.{END}", reply, reply, reply]
    output = tmp_path / "d.jsonl"
    with FaultyProxy(reply=lambda _: replies.pop(0)) as proxy:
        asked = settings(proxy, attempts=3, concurrency=1)
        counts, problem = teacher.teach(asked, samples(2), output)
        assert (counts["right"], counts["missing"], counts["requests"]) == (1, 1, 5)
        assert "1 answers were given up after 3 attempts" in problem
        replies.append(f"Yes.{END}")
        counts, problem = teacher.teach(asked, samples(2), output)
    assert (counts["right"], counts["requests"], problem) == (2, 1, None)


@pytest.mark.parametrize("content", ["", " \n", None])
def test_an_empty_answer_is_asked_again_then_that_questions_state(tmp_path, content):
    replies = [whole(content), f"Yes.{END}", *[whole(content)] * 3, f"Yes.{END}"]
    with FaultyProxy(reply=lambda _: replies.pop(0)) as proxy:
        asked = settings(proxy, attempts=3, concurrency=1)
        for again, right, empty, requests in [((), 1, 1, 5), ((), 1, 1, 0), (("empty",), 2, 0, 1)]:
            counts, problem = teacher.teach(asked, samples(2), tmp_path / "d.jsonl", again)
            found = (counts["right"], counts["empty"], counts["requests"])
            assert found == (right, empty, requests)
            assert problem is None


def test_thinking_that_leaves_no_token_is_not_paid_for_again(tmp_path):
    with FaultyProxy(reply=lambda _: whole("", finish="length")) as proxy:
        asked, output = settings(proxy), tmp_path / "d.jsonl"
        counts, problem = teacher.teach(asked, samples(1), output)
    assert (counts["exhausted"], counts["requests"]) == (1, 1)
    assert "no answer can be written: 1 exhausted; the token limit was reached" in problem
    with teacher.opened_store(teacher.store_of(output)) as stored:
        (told,) = teacher.told_states(asked, samples(1), stored)
    assert told.startswith("exhausted: row 1, 'q0': the token limit was reached")
    assert "raise teacher.max_tokens" in told


REFUSALS = [
    refusal(400, "The response was filtered", "content_filter"),
    refusal(400, "Invalid prompt: flagged as potentially violating", "invalid_prompt"),
    refusal(403, "requires moderation and your input was flagged"),
    refusal(400, "Content Exists Risk", "invalid_request_error"),
    refusal(400, "Your input was flagged: 'the temperature of a bomb', moderation"),
    refusal(400, "This model's maximum context length is 10 tokens", "context_length_exceeded"),
    refusal(200, "filtered", "content_filter"),
    whole("Half an ans", finish="content_filter"),
    whole(None, finish="content_filter"),
    whole(None, refusal="I cannot help with that."),
]


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refused_question_is_its_state_and_the_others_go_on(tmp_path, reply):
    output = tmp_path / "d.jsonl"
    with FaultyProxy(reply=lambda prompt: reply if prompt == "q1" else f"Yes.{END}") as proxy:
        asked = settings(proxy, concurrency=1)
        for again, requests in [((), 4), ((), 0), (("refused",), 1)]:
            counts, problem = teacher.teach(asked, samples(4), output, again)
            found = (counts["refused"], counts["right"], counts["requests"])
            assert found == (1, 3, requests)
            assert (problem is None) == (again == ())  # then nothing else was asked
    assert [row["instruction"] for row in lines(output)] == ["q0", "q2", "q3"]
    with teacher.opened_store(teacher.store_of(output)) as stored:
        (told,) = teacher.told_states(asked, samples(4), stored)
    assert told.startswith("refused: row 2, 'q1': ")


WINDOW = (
    "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context "
    "length is {} tokens and your request has 900 input tokens"
)
SETTINGS_AT_FAULT = [
    refusal(400, WINDOW.format(1000)),
    refusal(400, WINDOW.format(2048).replace("1024", "4096")),
    refusal(
        400,
        "This model's maximum context length is 1000 tokens. However, you requested 1044 tokens "
        "(20 in the messages, 1024 in the completion).",
        "context_length_exceeded",
    ),
    refusal(400, "temperature must be at most 2; see our content policy"),
    refusal(400, "'seed' is not supported. Read about moderation in the manual."),
    refusal(422, "Unrecognized request argument supplied: content_filter"),
    (400, {"error": {"message": "Bad value, see the content policy", "param": "top_p"}}),
    (400, {"object": "error", "message": WINDOW.format(1024), "param": None, "code": 400}),
]


@pytest.mark.parametrize("reply", SETTINGS_AT_FAULT)
def test_a_wrong_setting_is_no_refused_question(tmp_path, reply):
    output = tmp_path / "d.jsonl"
    with FaultyProxy(reply=lambda _: reply) as proxy:
        with pytest.raises(UserError, match="refuses the request"):
            teacher.teach(settings(proxy, concurrency=1), samples(3), output)
        assert len(proxy.asked) == 1
    assert teacher.store_of(output).read_bytes() == b""


def test_a_question_too_long_beside_its_answer_is_its_state(tmp_path):
    reply = refusal(400, WINDOW.format(1025))
    with FaultyProxy(reply=lambda q: reply if q == "q1" else f"Yes.{END}") as proxy:
        counts, problem = teacher.teach(settings(proxy), samples(3), tmp_path / "d.jsonl")
    assert (counts["refused"], counts["right"], problem) == (1, 2, None)


def test_a_run_of_refusals_alone_is_a_problem(tmp_path):
    with FaultyProxy(reply=lambda _: refusal(400, "flagged")) as proxy:
        _, problem = teacher.teach(settings(proxy), samples(3), tmp_path / "d.jsonl")
    assert "every question that was asked was refused (3): " in problem
    assert "flagged" in problem


DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, b'{"choices":' + DEEP), "the reply holds no answer: it is nested too deeply"),
        ((200, b" <!doctype html><p>Log in"), "the reply is a page in HTML.*teacher.base_url"),
        ((200, b"Bad gateway"), "the reply holds no answer: it is no JSON: 'Bad gateway'"),
        ((200, b"\xff"), "the reply holds no answer: it is no JSON"),
    ],
)
def test_a_reply_that_cannot_be_read_is_a_message(tmp_path, reply, message):
    with FaultyProxy(reply=lambda _: reply) as proxy:
        asked = settings(proxy, attempts=1)
        counts, problem = teacher.teach(asked, samples(1), tmp_path / "d.jsonl")
    assert counts["missing"] == 1
    assert re.search(message, problem)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refusal(401, "Incorrect API key"), "refuses the key"),
        (refusal(403, "Country not supported"), "refuses the key"),
        (refusal(402, "Insufficient balance"), "Insufficient balance"),
        (refusal(404, "The model `m` does not exist", "model_not_found"), "does not exist"),
        (refusal(400, "Unsupported parameter: 'max_tokens'", "unsupported_parameter"), "max_tok"),
        (refusal(429, "You exceeded your quota", "insufficient_quota"), "exceeded your quota"),
    ],
)
def test_what_concerns_all_questions_stops_and_keeps_what_is_under_way(tmp_path, reply, message):
    output = tmp_path / "d.jsonl"

    def answer(prompt):
        if prompt == "q1":
            return reply
        time.sleep(0.2)  # still under way when the refusal comes
        return f"Yes.{END}"

    with FaultyProxy(reply=answer) as proxy:
        asked = settings(proxy, concurrency=2)
        with pytest.raises(UserError, match=message):
            teacher.teach(asked, samples(6), output)
        assert prompts(proxy.asked) == ["q0", "q1"]
    assert [answer["instruction"] for answer in lines(teacher.store_of(output))] == ["q0"]


def test_parameters_can_be_left_out_and_added(tmp_path):
    extra = {"max_completion_tokens": 2000, "reasoning_effort": "low", "nested": {"a": [1]}}
    changes = {"temperature": None, "max_tokens": None, "seed": None, "extra": extra}
    with FaultyProxy() as proxy:
        asked = settings(proxy, **changes)
        teacher.teach(asked, samples(1), tmp_path / "d.jsonl")
        assert "at most 2000 tokens" in str(teacher.estimate(asked, samples(1), {}))
    messages = [{"role": "user", "content": "q0"}]
    assert proxy.asked == [{"model": "m", "messages": messages, **extra}]
    unlimited = settings(proxy, max_tokens=None)
    assert "no limit to the tokens" in str(teacher.estimate(unlimited, samples(1), {}))


@pytest.mark.parametrize("name", ["model", "messages", "temperature", "stream", "n"])
def test_extra_parameters_replace_no_setting(name):
    with pytest.raises(ValidationError, match=name):
        TeacherSettings(extra={name: 1})


def test_the_latest_of_several_answers_counts(tmp_path):
    output = tmp_path / "d.jsonl"
    with FaultyProxy() as proxy:
        teacher.teach(settings(proxy), samples(2), output)
        store = teacher.store_of(output)
        answer = lines(store)[0]
        teacher.append(store, {**answer, "output": "Later."})
        counts, _ = teacher.teach(settings(proxy), samples(2), output)
    assert counts["requests"] == 0
    assert "Later." in [row["output"] for row in lines(output)]


@pytest.mark.parametrize(
    "line", ["{}", "5", "nonsense", "\xff", '{"key": "a", "output": null}', "[" * 200_000]
)
def test_a_line_that_is_no_answer_is_named(tmp_path, line):
    store = tmp_path / "d.answers.jsonl"
    store.write_bytes(b'{"key": "a", "output": "b"}\n' + line.encode("latin-1") + b"\n")
    with (
        pytest.raises(UserError, match=r"answers\.jsonl, line 2: is no stored answer"),
        teacher.opened_store(store),
    ):
        pass


def test_a_store_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="could not be written"),
        teacher.opened_store(tmp_path / "file" / "d.answers.jsonl"),
    ):
        pass


# ------------------------------------------------------------------------------ the command


def config(tmp_path, proxy):
    path = tmp_path / "study.yaml"
    raw = {
        "models": [MODEL],
        "datasets": [
            {
                "from": "gsm_symbolic",
                "name": "taught",
                "responses": ["none", "simplified", "long"],
                "added": {"long": str(tmp_path / "taught.jsonl")},
            }
        ],
        "samples": 20,
        "controls": ["correct"],
        "teacher": {"base_url": proxy.url, "model": "m", "wrong": "keep", "concurrency": 2},
    }
    path.write_text(yaml.safe_dump(raw))
    return path


def test_command_prints_an_estimate_first(tmp_path):
    with FaultyProxy() as proxy:
        study = config(tmp_path, proxy)
        arguments = ["teach", "--study", str(study), "--dataset", "taught"]
        arguments += ["--output", str(tmp_path / "taught.jsonl"), "--samples", "3"]
        done = CliRunner().invoke(app, [*arguments, "--dry-run"], catch_exceptions=False)
        assert "3 answers wanted, 0 stored, 3 to ask for: about" in done.output
        assert proxy.asked == []
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert "3 written" in done.output
        build = ["build", "--study", str(study), "--dataset", "taught"]
        build += ["--output", str(tmp_path / "taught.parquet")]
        CliRunner().invoke(app, build, catch_exceptions=False)
    import polars as pl

    frame = pl.read_parquet(tmp_path / "taught.parquet")
    assert frame["sample_id"].n_unique() == 3
    assert set(frame["response"]) == {"none", "simplified", "long"}


def test_command_names_refused_questions_and_asks_again_if_told(tmp_path):
    with FaultyProxy(reply=lambda _: refusal(400, "no", "content_filter")) as proxy:
        arguments = ["teach", "--study", str(config(tmp_path, proxy)), "--dataset", "taught"]
        arguments += ["--output", str(tmp_path / "taught.jsonl"), "--samples", "1"]
        asked_before = 0
        for more, asked in [([], 1), ([], 1), (["--again", "refused"], 2)]:
            done = CliRunner().invoke(app, [*arguments, *more])
            assert done.exit_code == 1
            told = (
                "no answer can be written: 1 refused"
                if asked == asked_before
                else "was refused (1)"
            )
            assert told in str(done.exception)
            asked_before = asked
            assert "taught: refused: row" in done.output
            assert "1 refused" in done.output
            assert len(proxy.asked) == asked
        done = CliRunner().invoke(app, [*arguments, "--again", "lost"])
        assert "no such state" in str(done.exception)


def test_a_killed_run_goes_on_without_a_repeated_request(tmp_path):
    slowly = lambda prompt: time.sleep(0.3) or "Slow.\nThe final answer is 4"  # noqa: E731
    with FaultyProxy(reply=slowly) as proxy:
        arguments = ["teach", "--study", str(config(tmp_path, proxy)), "--dataset", "taught"]
        command = [sys.executable, "-m", "layergrad", *arguments]
        command += ["--output", str(tmp_path / "taught.jsonl")]
        process = subprocess.Popen(command, env={**os.environ, "OPENAI_API_KEY": KEY})
        store = tmp_path / "taught.answers.jsonl"
        while not store.exists() or len(store.read_bytes().splitlines()) < 8:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = {answer["instruction"] for answer in lines(store)}
        time.sleep(0.5)
        before = len(proxy.asked)
        subprocess.run(command, env={**os.environ, "OPENAI_API_KEY": KEY}, check=True)
        asked_again = proxy.asked[before:]
    assert len(asked_again) == 20 - len(stored)
    assert not any(i in body["messages"][-1]["content"] for i in stored for body in asked_again)
    assert len(lines(tmp_path / "taught.jsonl")) == 20
