"""Slow responses written by a model behind an OpenAI-compatible endpoint.

Every answer is stored as soon as it arrives, under a key of all that was asked, and is never asked
for again: a run that was stopped goes on where it was. The file that a dataset adds is made from
the store, without the answers that the configuration drops.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergrad.config import TeacherSettings
from layergrad.datasets.answers import final_answer, same_answer
from layergrad.datasets.pool import Sample
from layergrad.errors import UserError
from layergrad.provenance import key, write_text

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Characters of English text per token, for the estimate alone.
CHARACTERS_PER_TOKEN = 4
LONGEST_WAIT = 60.0  # seconds between two attempts


class BudgetSpentError(Exception):
    """The run has sent as many requests as it may."""


# ------------------------------------------------------------------------------ what is asked


def question(settings: TeacherSettings, sample: Sample) -> dict[str, Any]:
    """Return the body of the request for one sample."""
    # replace, since an instruction may hold braces of its own
    prompt = settings.prompt.replace("{instruction}", sample.instruction)
    turns = [{"role": "user", "content": prompt}]
    if settings.system is not None:
        turns.insert(0, {"role": "system", "content": settings.system})
    body = {
        "model": settings.model,
        "messages": turns,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    return body if settings.seed is None else {**body, "seed": settings.seed}


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
    answer_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.wanted} answers wanted, {self.stored} stored, {self.to_ask} to ask for: "
            f"about {self.prompt_tokens} tokens of prompts and at most {self.answer_tokens} "
            "tokens of answers"
        )


def estimate(settings: TeacherSettings, samples: list[Sample], stored: set[str]) -> Estimate:
    """Estimate a run; `stored` are the keys of the answers that are there."""
    open_ = [s for s in samples if question_key(settings, s) not in stored]
    sizes = (len(turn["content"]) for s in open_ for turn in question(settings, s)["messages"])
    return Estimate(
        len(samples),
        len(samples) - len(open_),
        len(open_),
        sum(sizes) // CHARACTERS_PER_TOKEN,
        len(open_) * settings.max_tokens,
    )


# ------------------------------------------------------------------------------ the store


def store_of(output: Path) -> Path:
    """Return where the answers are stored that a file of responses is made from."""
    return output.with_name(f"{output.stem}.answers.jsonl")


@contextmanager
def opened_store(path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Lock a store for this process and give the answers in it, by key.

    A last line that was cut off by a crash is removed: its answer is asked for again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another `layergrad teach` is writing to it") from None
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            file.truncate(len(whole))
        yield _answers(path, whole)


def _answers(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    answers = {}
    for i, line in enumerate(content.decode("utf-8").splitlines(), 1):
        try:
            answer = json.loads(line)
            answers[answer["key"]] = answer
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, row {i}: is no stored answer; mend or delete it") from None
    return answers


def append(path: Path, answer: dict[str, Any]) -> None:
    """Add an answer to a store, on the disk before the call returns."""
    with open(path, "ab") as file:
        file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
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
    refused: bool = False
    given_up: dict[str, str] = field(default_factory=dict)
    _next_start: float = 0.0

    async def ask_all(self, samples: list[Sample]) -> None:
        """Ask for every sample's answer; stops early when the budget is spent.

        Raises
        ------
        BudgetSpentError
            After the answers under way have been stored.
        UserError
            If the endpoint refuses a request for good.
        """
        if not samples:
            return
        turns = asyncio.Semaphore(self.settings.concurrency)
        tasks = [asyncio.create_task(self._ask_in_turn(turns, sample)) for sample in samples]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in done if task.exception()]
        if failed and not isinstance(failed[0].exception(), BudgetSpentError):
            for task in tasks:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [r for r in results if isinstance(r, Exception)]
        for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpentError)):
            raise error

    async def _ask_in_turn(self, turns: asyncio.Semaphore, sample: Sample) -> None:
        async with turns:
            if not self.refused:
                await self._ask(sample)

    async def _ask(self, sample: Sample) -> None:
        """Ask until an answer comes; what comes is stored at once."""
        import openai

        for attempt in range(self.settings.attempts):
            await self._start()
            try:
                reply = await self.client.chat.completions.create(
                    **question(self.settings, sample), timeout=self.settings.timeout
                )
                append(self.store, self._answer(sample, reply))
                return
            except (openai.APIError, json.JSONDecodeError) as error:
                if not _is_passing(error):
                    self.refused = True
                    raise UserError(self._refusal(error)) from None
                self.given_up[sample.sample_id] = self._told(error)
                if attempt + 1 < self.settings.attempts:
                    await asyncio.sleep(_wait(error, attempt))

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

    def _answer(self, sample: Sample, reply: Any) -> dict[str, Any]:
        choice = reply.choices[0]
        text = (choice.message.content or "").strip()
        self.given_up.pop(sample.sample_id, None)
        return {
            "key": question_key(self.settings, sample),
            "instruction": sample.instruction,
            "output": text,
            "finish_reason": choice.finish_reason,
            "model": reply.model,
            "usage": reply.usage.model_dump(exclude_none=True) if reply.usage else None,
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


def _is_passing(error: Exception) -> bool:
    """Whether another attempt may succeed: rate limits, faults of the server or of the network."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
    return True


def _wait(error: Exception, attempt: int) -> float:
    """Return how long to wait: what the server says, else twice as long each time, with jitter."""
    response = getattr(error, "response", None)
    told = response.headers.get("retry-after") if response is not None else None
    try:
        return min(float(told), LONGEST_WAIT)
    except (TypeError, ValueError):
        return min(2.0**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311


# ------------------------------------------------------------------------------ the whole


def teach(
    settings: TeacherSettings, samples: list[Sample], output: str | Path
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

    Returns
    -------
    counts
        Answers: ``written``, ``right``, ``wrong``, ``unknown`` (no final answer to compare),
        ``unfinished``, ``empty``, ``missing``, and ``requests`` of this run.
    problem
        Why answers are missing, None if none are.

    Raises
    ------
    UserError
        If there is no key, or the endpoint refuses a request for good. What was answered before is
        stored.
    """
    output = Path(output)
    secret = _secret(settings)
    with opened_store(store_of(output)) as stored:
        open_ = [s for s in samples if question_key(settings, s) not in stored]
        run, problem = asyncio.run(_ask_open(settings, open_, store_of(output), secret))
    with opened_store(store_of(output)) as stored:
        counts = _write(settings, samples, stored, output)
    counts["requests"] = run.requests
    if run.given_up and not problem:
        last = next(iter(run.given_up.values()))
        problem = f"{len(run.given_up)} answers were given up after {settings.attempts} attempts: "
        problem += f"{last}; run again to ask for them"
    return counts, problem


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
    secret = os.environ.get(settings.key_variable)
    if not secret:
        raise UserError(
            f"the environment variable {settings.key_variable} is not set: put the key of "
            f"{settings.base_url} there, or set teacher.key_variable to null if it needs none"
        )
    return secret


def _write(
    settings: TeacherSettings,
    samples: list[Sample],
    stored: dict[str, dict[str, Any]],
    output: Path,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    lines = []
    for sample in samples:
        answer = stored.get(question_key(settings, sample))
        state = _state(answer, sample)
        counts[state] += 1
        dropped = {"missing", "empty"}
        dropped |= {s for s in ("wrong", "unfinished") if getattr(settings, s) == "drop"}
        if state not in dropped:
            row = {"instruction": sample.instruction, "input": "", "output": answer["output"]}
            lines.append(json.dumps(row, ensure_ascii=False))
    counts["written"] = len(lines)
    write_text("".join(f"{line}\n" for line in lines), output)
    return counts


def _state(answer: dict[str, Any] | None, sample: Sample) -> str:
    if answer is None:
        return "missing"
    if not answer["output"]:
        return "empty"
    if answer["finish_reason"] == "length":
        return "unfinished"
    stated = final_answer(answer["output"])
    if stated is None or sample.answer is None:
        return "unknown"
    return "right" if same_answer(stated, sample.answer) else "wrong"
