"""Slow responses written by a model behind an OpenAI-compatible endpoint.

Every answer is stored as soon as it arrives, under a key of all that was asked, and is never asked
for again: a run that was stopped goes on where it was. So is the refusal of a question. The file
that a dataset adds is made from the store, without the answers that the configuration drops.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergrad.config import TEACHER_OPTIONS, TeacherSettings
from layergrad.datasets.answers import final_answer, same_answer
from layergrad.datasets.pool import Sample
from layergrad.datasets.values import shown, unusable
from layergrad.errors import UserError
from layergrad.provenance import key, write_text

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Characters of English text per token, for the estimate alone.
CHARACTERS_PER_TOKEN = 4
LONGEST_WAIT = 60.0  # seconds between two attempts
# What endpoints say when they refuse one question, for its content or its length, and would answer
# another one: OpenAI, Azure, OpenRouter, DeepSeek, DashScope, vLLM.
_ABOUT_THE_QUESTION = re.compile(
    r"content[ _]?(filter|policy|management|exists risk)|responsible_?ai|invalid_prompt|moderation"
    r"|flagged|data_?inspection_?failed|inappropriate content|context_length|context length"
    r"|string_above_max_length|too many tokens|prompt is too long",
    re.IGNORECASE,
)
# The longest prompt and answer that the endpoint takes, as vLLM and OpenAI word it.
_WINDOW = re.compile(r"maximum context length (?:is|of) (\d+)", re.IGNORECASE)
_TOLD_LIMIT = re.compile(r"too large: (\d+)|(\d+) in the completion", re.IGNORECASE)
_BAD_PARAMETER = re.compile(
    r"(unknown|unsupported|unrecognized|unexpected|invalid|extra|missing)"
    r"( request| required| keyword)* (parameter|argument|field)",
    re.IGNORECASE,
)
_PROMPT = ("messages", "prompt", "input")  # parameters that hold the question
STATES = ("right", "wrong", "unknown", "unfinished", "exhausted", "empty", "refused", "unusable")
TOKENS_SPENT = (
    "the token limit was reached before an answer came, such as by thinking; raise "
    "teacher.max_tokens, or the limit under teacher.extra"
)


class BudgetSpentError(Exception):
    """The run has sent as many requests as it may."""


class NoAnswerError(Exception):
    """A reply without an answer in it; another attempt may bring one."""


@dataclass(frozen=True)
class Reply:
    """One answer as the endpoint gave it.

    Attributes
    ----------
    text
        The answer without white space around it; empty if there is none.
    finish_reason
        Why the answer ends there, in the endpoint's word.
    refused
        Why the question was refused, None if it was answered.
    model, usage
        The model's full name and the tokens it counted, where the endpoint says.
    """

    text: str
    finish_reason: str | None = None
    refused: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None


# ------------------------------------------------------------------------------ what is asked


def question(settings: TeacherSettings, sample: Sample) -> dict[str, Any]:
    """Return the body of the request for one sample."""
    # replace, since an instruction may hold braces of its own
    prompt = settings.prompt.replace("{instruction}", sample.instruction)
    turns = [{"role": "user", "content": prompt}]
    if settings.system is not None:
        turns.insert(0, {"role": "system", "content": settings.system})
    options = {name: getattr(settings, name) for name in TEACHER_OPTIONS}
    sent = {name: value for name, value in options.items() if value is not None}
    return {"model": settings.model, "messages": turns, **sent, **settings.extra}


def question_key(settings: TeacherSettings, sample: Sample) -> str:
    """Return the key under which an answer is stored: of all that decides it."""
    return key("teacher", settings.base_url, question(settings, sample), sample.sample_id)


@dataclass(frozen=True)
class Estimate:
    """What a run would ask for at most."""

    wanted: int
    stored: int
    to_ask: int
    prompt_tokens: int
    answer_tokens: int | None

    def __str__(self) -> str:
        limit = "no limit to the" if self.answer_tokens is None else f"at most {self.answer_tokens}"
        return (
            f"{self.wanted} answers wanted, {self.stored} stored, {self.to_ask} to ask for: "
            f"about {self.prompt_tokens} tokens of prompts and {limit} tokens of answers"
        )


def unanswered(
    settings: TeacherSettings,
    samples: list[Sample],
    stored: dict[str, dict[str, Any]],
    again: Collection[str] = (),
) -> list[Sample]:
    """Return the samples to ask for: without a stored answer, or with one in a state of `again`."""
    judged = _judged(settings, samples, stored)
    return [sample for state, sample in judged if state == "missing" or state in again]


def estimate(
    settings: TeacherSettings,
    samples: list[Sample],
    stored: dict[str, dict[str, Any]],
    again: Collection[str] = (),
) -> Estimate:
    """Estimate a run; see :func:`unanswered`."""
    open_ = unanswered(settings, samples, stored, again)
    limit = settings.max_tokens or settings.extra.get("max_completion_tokens")
    sizes = (len(turn["content"]) for s in open_ for turn in question(settings, s)["messages"])
    return Estimate(
        len(samples),
        len(samples) - len(open_),
        len(open_),
        sum(sizes) // CHARACTERS_PER_TOKEN,
        len(open_) * limit if isinstance(limit, int) else None,
    )


# ------------------------------------------------------------------------------ the store


def store_of(output: Path) -> Path:
    """Return where the answers are stored that a file of responses is made from."""
    return output.with_name(f"{output.stem}.answers.jsonl")


@contextmanager
def opened_store(path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Lock a store for this process and give the answers in it, by key.

    A last line that was cut off by a crash is removed: its answer is asked for again.

    Raises
    ------
    UserError
        If it cannot be opened or read, or another process writes to it.
    """
    with _file_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 (closed below, the faults of the block are others)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another `layergrad teach` is writing to it") from None
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            file.truncate(len(whole))
            sys.stderr.write(f"{path}: the last line was cut off; its answer is asked for again\n")
        yield _answers(path, whole)


@contextmanager
def _file_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: could not be written: {error.strerror}") from None


def _answers(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    """Return key -> answer, the latest where there are several."""
    answers = {}
    # "\n" alone separates lines: an answer may hold every other line break
    for i, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            answer = json.loads(line)
            if not isinstance(answer["output"], str):
                raise TypeError
            answers[answer["key"]] = answer
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path}, line {i}: is no stored answer; fix or delete it") from None
    return answers


def append(path: Path, answer: dict[str, Any]) -> None:
    """Add an answer to a store, on the disk before the call returns."""
    # escaped, so that half a character, which has no UTF-8, does not cost the answer
    line = json.dumps(answer, ensure_ascii=True).encode() + b"\n"
    with _file_faults(path), open(path, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


# ------------------------------------------------------------------------------ asking


@dataclass
class Run:
    """One run: where to ask, at what pace, and how much was asked."""

    settings: TeacherSettings
    client: AsyncOpenAI
    store: Path
    secret: str | None = None
    requests: int = 0
    stopped: bool = False
    given_up: dict[str, str] = field(default_factory=dict)
    _next_start: float = 0.0

    async def ask_all(self, samples: list[Sample]) -> None:
        """Ask for every sample's answer; stops early when the budget is spent.

        Raises
        ------
        BudgetSpentError
            After the answers under way have been stored.
        UserError
            If the endpoint refuses all requests, or the store cannot be written; what was under
            way is waited for and stored, since it will be paid for.
        """
        turns = asyncio.Semaphore(self.settings.concurrency)
        asked = (self._ask_in_turn(turns, sample) for sample in samples)
        results = await asyncio.gather(*asked, return_exceptions=True)
        errors = [r for r in results if isinstance(r, BaseException)]
        for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpentError)):
            raise error

    async def _ask_in_turn(self, turns: asyncio.Semaphore, sample: Sample) -> None:
        async with turns:
            try:
                await self._ask(sample)
            except Exception:
                self.stopped = True
                raise

    async def _ask(self, sample: Sample) -> None:
        """Ask until an answer comes; what comes is stored at once."""
        import openai

        for attempt in range(self.settings.attempts):
            if self.stopped:
                return
            await self._start()
            is_last = attempt + 1 == self.settings.attempts
            try:
                reply = await self._reply(sample)
            except (openai.APIError, ValueError, NoAnswerError) as error:
                if not _is_passing(error):
                    raise UserError(self._refusal(error)) from None
                self.given_up[sample.sample_id] = self._told(error)
                if not is_last:
                    await asyncio.sleep(_wait(error, attempt))
                continue
            # an empty answer may be a whim of the endpoint, unless all tokens went into thinking
            is_whim = not reply.text and not reply.refused and reply.finish_reason != "length"
            if is_whim and not is_last:
                await asyncio.sleep(_wait(None, attempt))
                continue
            self.given_up.pop(sample.sample_id, None)
            append(self.store, self._answer(sample, reply))
            return

    async def _reply(self, sample: Sample) -> Reply:
        """Send one request; a question that is refused has a reply that says so."""
        try:
            return await self._one_reply(sample)
        except RecursionError:
            raise NoAnswerError("the reply holds no answer: it is nested too deeply") from None

    async def _one_reply(self, sample: Sample) -> Reply:
        import openai

        body = question(self.settings, sample)
        named = {name: body.pop(name) for name in ("model", "messages")}
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                **named, extra_body=body, timeout=self.settings.timeout
            )
        except openai.APIStatusError as error:
            is_possible = error.status_code in {400, 403, 413, 422}
            fault = error.body if error.body is not None else str(error)
            # too large a body has no better sign than its status
            if error.status_code == 413 or (is_possible and _refuses_question(fault, body)):
                return Reply("", refused=self._told(error))
            raise
        return read_reply(_decoded(raw.content), body)

    async def _start(self) -> None:
        """Count a request against the budget and wait for its place in the pace."""
        if self.requests >= self.settings.max_requests:
            raise BudgetSpentError
        self.requests += 1
        if self.settings.requests_per_minute:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60 / self.settings.requests_per_minute
            await asyncio.sleep(start - now)

    def _answer(self, sample: Sample, reply: Reply) -> dict[str, Any]:
        return {
            "key": question_key(self.settings, sample),
            "instruction": sample.instruction,
            "output": reply.text,
            "finish_reason": reply.finish_reason,
            "refused": reply.refused,
            "model": reply.model,
            "usage": reply.usage,
        }

    def _refusal(self, error: Exception) -> str:
        import openai

        where = f"{self.settings.base_url} ({self.settings.model})"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            name = self.settings.key_variable or "key_variable"
            return f"{where} refuses the key: check the environment variable {name}"
        return f"{where} refuses the request: {self._told(error)}"

    def _told(self, error: Exception) -> str:
        """Return what an error says, without the key."""
        text = f"{type(error).__name__}: {error}"[:500]
        return text.replace(self.secret, "***") if self.secret else text


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        start = content[:200].decode(errors="replace").strip()
        if start.startswith("<"):
            raise NoAnswerError(
                "the reply is a page in HTML, not an answer of an API: check teacher.base_url, "
                f"proxies and logins: {start!r}"
            ) from None
        raise NoAnswerError(f"the reply holds no answer: it is no JSON: {start!r}") from None


def read_reply(body: Any, sent: Mapping[str, Any] | None = None) -> Reply:
    """Return the answer in the body of a reply.

    The body is read as it came, since endpoints differ, and an answer that was paid for must not
    be lost because of a field that nobody needs.

    Parameters
    ----------
    body
        What came.
    sent
        Parameters of the request, to know a fault in them from a question that is refused.

    Raises
    ------
    NoAnswerError
        If there is none, such as where an endpoint that passes requests on reports another's fault.
    """
    body = body if isinstance(body, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        fault = body.get("error") or body
        told = json.dumps(fault)[:300]
        if _refuses_question(fault, sent or {}):
            return Reply("", refused=told)
        raise NoAnswerError(f"the reply holds no answer: {told}")
    reason = choice.get("finish_reason")
    refused = message.get("refusal")
    if reason == "content_filter":
        refused = refused or "the answer was cut off by a content filter"
    return Reply(
        text=_text(message.get("content")).strip(),
        finish_reason=reason if isinstance(reason, str) else None,
        refused=str(refused) if refused else None,
        model=_storable(body.get("model")),
        usage=_storable(body.get("usage")),
    )


def _storable(value: Any) -> Any:
    """Return a value that nobody needs, None if it is nested too deeply to be written."""
    try:
        json.dumps(value)
    except RecursionError:
        return None
    return value


def _text(content: Any) -> str:
    """Return the text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _refuses_question(fault: Any, sent: Mapping[str, Any]) -> bool:
    """Whether an error concerns this question alone, so that others may be answered.

    Parameters
    ----------
    fault
        The error as the endpoint describes it.
    sent
        Parameters of the request: an error about one of them concerns every question.
    """
    if not _ABOUT_THE_QUESTION.search(str(fault)):
        return False
    param = fault.get("param") if isinstance(fault, dict) else None
    # only the message, since other fields may quote the question
    message = fault.get("message") if isinstance(fault, dict) else None
    message = message if isinstance(message, str) else str(fault)
    window = _WINDOW.search(message)
    if window:  # too long with its answer, where it is not the answer that leaves no question room
        is_about_answer = re.search("max_(completion_)?tokens|completion", message)
        return not is_about_answer or _answer_limit(sent, message) < int(window[1])
    if isinstance(param, str) and param and not param.startswith(_PROMPT):
        return False
    return not (_BAD_PARAMETER.search(message) or any(_names(message, name) for name in sent))


def _answer_limit(sent: Mapping[str, Any], message: str) -> int:
    """Return the tokens asked for at most, as sent or, where a server sets them, as it says."""
    limits = [sent.get(name) for name in ("max_tokens", "max_completion_tokens")]
    told = _TOLD_LIMIT.search(message)
    limits += [int(told[1] or told[2])] if told else []
    return max((limit for limit in limits if isinstance(limit, int)), default=0)


def _names(message: str, name: str) -> bool:
    """Whether a message names a parameter; a plain word must be quoted or clearly meant."""
    word = re.escape(name)
    if "_" in name:
        return re.search(rf"\b{word}\b", message) is not None
    named = (
        rf"['\"`]{word}['\"`]|\b{word}\W+(must|should|cannot|is not|is too|value|parameter)\b"
        rf"|\b(invalid|unsupported|parameter|argument|value for)\W+{word}\b"
    )
    return re.search(named, message, re.IGNORECASE) is not None


def _is_passing(error: Exception) -> bool:
    """Whether another attempt may succeed: rate limits, faults of the server or of the network."""
    import openai

    if isinstance(error, openai.APIStatusError):
        is_spent = error.code == "insufficient_quota"  # sent as a rate limit, which it is not
        passing = error.status_code in {408, 409, 425, 429} or error.status_code >= 500
        return passing and not is_spent
    return True


def _wait(error: Exception | None, attempt: int) -> float:
    """Return how long to wait: what the server says, else twice as long each time, with jitter."""
    response = getattr(error, "response", None)
    told = response.headers.get("retry-after") if response is not None else None
    try:
        return min(max(0.0, float(told)), LONGEST_WAIT)
    except (TypeError, ValueError):
        return min(2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311


# ------------------------------------------------------------------------------ the whole


def teach(
    settings: TeacherSettings,
    samples: list[Sample],
    output: str | Path,
    again: Collection[str] = (),
) -> tuple[Counter[str], str | None]:
    """Ask for the answers that are not stored, and write the file of responses.

    Parameters
    ----------
    settings
        Where and what to ask.
    samples
        Whose instructions to ask.
    output
        File to write: JSON lines of instruction and output. The store lies beside it.
    again
        States of stored answers to ask for again, of :data:`STATES`.

    Returns
    -------
    counts
        Answers: ``written``, ``right``, ``wrong``, ``unknown`` (no final answer to compare),
        ``unfinished``, ``exhausted`` (no token was left for the answer), ``empty``, ``refused``
        (the question, or an answer that was cut off by a filter), ``unusable`` (no text that a
        tokenizer can read), ``missing``, and ``requests`` of this run.
    problem
        Why answers are missing, or all questions that were asked were refused, or nothing was
        written; None if none of these.

    Raises
    ------
    UserError
        If there is no key, or the endpoint refuses all requests. What was answered is stored.
    """
    output = Path(output)
    secret = _secret(settings)
    with opened_store(store_of(output)) as stored:
        open_ = unanswered(settings, samples, stored, again)
        run, problem = asyncio.run(_ask_open(settings, open_, store_of(output), secret))
    with opened_store(store_of(output)) as stored:
        counts = _write(settings, samples, stored, output)
    counts["requests"] = run.requests
    if run.given_up and not problem:
        last = next(iter(run.given_up.values()))
        problem = f"{len(run.given_up)} answers were given up after {settings.attempts} attempts: "
        problem += f"{last}; run again to ask for them"
    return counts, problem or _futility(settings, samples, open_, stored)


def _futility(
    settings: TeacherSettings,
    samples: list[Sample],
    asked: list[Sample],
    stored: dict[str, dict[str, Any]],
) -> str | None:
    """Return what is wrong where a run brought nothing, although every question has its state."""
    if asked and {state for state, _ in _judged(settings, asked, stored)} == {"refused"}:
        last = stored[question_key(settings, asked[-1])]["refused"]
        return (
            f"every question that was asked was refused ({len(asked)}): {last}; check the "
            "settings under teacher, then ask again with `--again refused`"
        )
    judged = _judged(settings, samples, stored)
    if judged and not any(_is_kept(settings, state) for state, _ in judged):
        states = Counter(state for state, _ in judged)
        told = ", ".join(f"{n} {state}" for state, n in states.items())
        hint = f"; {TOKENS_SPENT}" if "exhausted" in states else ""
        return f"no answer can be written: {told}{hint}"
    return None


def _judged(
    settings: TeacherSettings, samples: list[Sample], stored: dict[str, dict[str, Any]]
) -> list[tuple[str, Sample]]:
    return [(_state(stored.get(question_key(settings, s)), s), s) for s in samples]


def _is_kept(settings: TeacherSettings, state: str) -> bool:
    if state in {"wrong", "unfinished"}:
        return getattr(settings, state) == "keep"
    return state in {"right", "unknown"}


async def _ask_open(
    settings: TeacherSettings, samples: list[Sample], store: Path, secret: str | None
) -> tuple[Run, str | None]:
    import openai

    # without a key of its own the client would look for one in the environment
    async with openai.AsyncOpenAI(
        base_url=settings.base_url, api_key=secret or "none", max_retries=0
    ) as client:
        run = Run(settings, client, store, secret)
        try:
            await run.ask_all(samples)
        except BudgetSpentError:
            return run, (
                f"the budget of {settings.max_requests} requests is spent; raise "
                "teacher.max_requests or run again: what was answered is stored"
            )
        return run, None


def _secret(settings: TeacherSettings) -> str | None:
    if settings.key_variable is None:
        return None
    secret = os.environ.get(settings.key_variable, "").strip()
    if not secret:
        raise UserError(
            f"the environment variable {settings.key_variable} is not set: put the key of "
            f"{settings.base_url} there, or set teacher.key_variable to null if it needs none"
        )
    if not secret.isascii() or not secret.isprintable():
        raise UserError(f"the environment variable {settings.key_variable} holds no key: copy it")
    return secret


def _write(
    settings: TeacherSettings,
    samples: list[Sample],
    stored: dict[str, dict[str, Any]],
    output: Path,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    lines = []
    for state, sample in _judged(settings, samples, stored):
        counts[state] += 1
        if _is_kept(settings, state):
            answer = stored[question_key(settings, sample)]
            row = {"instruction": sample.instruction, "input": "", "output": answer["output"]}
            lines.append(json.dumps(row))  # escaped: no line break but "\n" for any reader
    counts["written"] = len(lines)
    write_text("".join(f"{line}\n" for line in lines), output)
    return counts


def _state(answer: dict[str, Any] | None, sample: Sample) -> str:
    if answer is None:
        return "missing"
    if answer.get("refused"):
        return "refused"
    if not answer["output"]:
        return "exhausted" if answer.get("finish_reason") == "length" else "empty"
    if unusable(answer["output"]):
        return "unusable"
    if answer.get("finish_reason") == "length":
        return "unfinished"
    stated = final_answer(answer["output"])
    if stated is None or sample.answer is None:
        return "unknown"
    return "right" if same_answer(stated, sample.answer) else "wrong"


def told_states(
    settings: TeacherSettings, samples: list[Sample], stored: dict[str, dict[str, Any]]
) -> list[str]:
    """Return a line for every question without a usable answer, although it was asked."""
    lines = []
    for sample in samples:
        answer = stored.get(question_key(settings, sample))
        state = _state(answer, sample)
        if state in {"refused", "exhausted", "empty", "unusable"}:
            nothing = TOKENS_SPENT if state == "exhausted" else "no text came"
            why = answer.get("refused") or unusable(answer["output"]) or nothing
            lines.append(f"{state}: row {sample.row + 1}, {shown(sample.instruction)}: {why}")
    return lines
