"""From an instruction to the prompt: what a chat template writes, and what it leaves out.

Templates are programs of strangers. None is trusted to write what it was given: each is rendered
with marks in place of the words, and only a template that writes every mark once is used. What
stands around the mark of the instruction is the *frame*; a prompt is the frame with the instruction
in it, and an instruction with which the template writes anything else fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layergrad.config import TEMPLATE_DATE
from layergrad.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# In place of words: letters alone, which no template strips, splits or gives a meaning.
USER, SECOND, SYSTEM, ANSWER = (
    f"layergrad{word}mark" for word in ("user", "second", "system", "answer")
)
_THINK = re.compile(r"<(think|thinking|thought|reasoning)>|\[(THINK)\]")


# Why a sample cannot be written as tokens.
REASONS = {
    "too_long": "more tokens than max_length",
    "no_response_tokens": "no tokens in the loss: the response is empty, or wholly cut off",
    "no_prompt_tokens": "no token before the response, so that its first one is not predicted",
    "boundary": "prompt and response cannot be told apart in tokens",
    "response_changed": "the tokens in the loss do not read as the response",
    "instruction_missing": "the chat template does not write the instruction once and whole",
    "template": "the chat template refuses the instruction",
    "tokenizer": "the tokenizer refuses the text",
}
# With these there is no text of which tokens could be counted.
UNWRITTEN = {"instruction_missing", "template", "tokenizer"}


class SampleError(Exception):
    """A sample that cannot be measured: `reason` for the failures table, message for detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class RefusedError(Exception):
    """A template raised an error; the message is one line."""


@dataclass(frozen=True)
class Template:
    """One chat template of a tokenizer, with what it is given beside the turns.

    Attributes
    ----------
    tokenizer
        The tokenizer that the template came with.
    name
        Which one of several named templates; None: the only one, or the one named ``default``.
    arguments
        Variables of the template, ``enable_thinking`` for instance.
    day
        The date that the template takes for today's, whatever the clock, time zone and locale say.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    day: date = TEMPLATE_DATE

    @cached_property
    def source(self) -> str:
        """The template's text.

        Raises
        ------
        UserError
            If there is none, none of that name, or several and none is the default.
        """
        found = self.tokenizer.chat_template
        if not found:
            raise UserError(
                "chat is on, but the tokenizer has no chat template: turn it off (`chat: false`, "
                "`--no-chat`) for this model"
            )
        named = found if isinstance(found, dict) else {"default": found}
        if (self.name or "default") in named:
            return named[self.name or "default"]
        names = ", ".join(sorted(named))
        fault = f"no chat template {self.name!r}" if self.name else "no default chat template"
        raise UserError(
            f"the tokenizer has {fault}: choose one of {names} (`template: NAME`, "
            "`--template NAME`)"
        )

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of all variables that the template reads."""
        from jinja2 import meta

        environment = self._compiled.environment
        return frozenset(meta.find_undeclared_variables(environment.parse(self.source)))

    @cached_property
    def _compiled(self) -> Any:
        # transformers pins no clock and takes no function among a template's variables
        from transformers.utils.chat_template_utils import _compile_jinja_template

        source = self.source
        try:
            return _compile_jinja_template(source)
        except Exception as error:
            raise UserError(f"the chat template cannot be read: {_line(error)}") from None

    def check_arguments(self) -> None:
        """Refuse arguments that the template would ignore, or that are not the user's to give."""
        reserved = sorted({"messages", "add_generation_prompt"} & set(self.arguments))
        if reserved:
            raise UserError(f"template_arguments: {', '.join(reserved)} are set by layergrad")
        unknown = sorted(set(self.arguments) - self.variables)
        if unknown:
            known = ", ".join(sorted(self.variables - set(_given(self.tokenizer, self.day))))
            raise UserError(
                f"template_arguments: the chat template does not read {', '.join(unknown)}; "
                f"it reads {known or 'none'}"
            )

    def render(self, turns: list[dict[str, Any]], generate: bool = True) -> str:
        """Return what the template writes.

        Parameters
        ----------
        turns
            ``role`` and ``content`` of each turn.
        generate
            Open the turn of the assistant at the end.

        Raises
        ------
        RefusedError
            Whatever error the template ends in.
        """
        given = _given(self.tokenizer, self.day) | {"messages": turns}
        if "strftime_now" in self.variables:
            given.pop("date_string")  # such a template writes the date in a form of its own
        given |= {"add_generation_prompt": generate, **self.arguments}
        try:
            return self._compiled.render(**given)
        except Exception as error:
            raise RefusedError(_line(error)) from None


def _given(tokenizer: PreTrainedTokenizerBase, day: date) -> dict[str, Any]:
    moment = _Fixed(day.year, day.month, day.day, tzinfo=UTC)
    return {
        **tokenizer.special_tokens_map,
        "messages": [],
        "add_generation_prompt": True,
        "tools": None,
        "documents": None,
        "strftime_now": moment.strftime,
        "date_string": moment.strftime("%d %b %Y"),
        "datetime": moment,
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Fixed(datetime):
    """A moment that does not pass, written in English wherever it is."""

    _DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    _MONTHS = (
        *("January", "February", "March", "April", "May", "June", "July"),
        *("August", "September", "October", "November", "December"),
    )

    def now(self, tz: Any = None) -> _Fixed:
        return self

    today = utcnow = now

    def strftime(self, form: str) -> str:
        day, month = self._DAYS[self.weekday()], self._MONTHS[self.month - 1]
        # what the C library takes from the locale and the time zone
        own = {"a": day[:3], "A": day, "b": month[:3], "h": month[:3], "B": month}
        own |= {"p": "AM", "Z": "UTC", "z": "+0000", "s": str(int(self.timestamp())), "%": "%%"}
        own |= {"x": "%m/%d/%y", "X": "%H:%M:%S", "r": "%I:%M:%S AM"}
        own["c"] = f"{own['a']} {own['b']} %e %H:%M:%S %Y"
        return super().strftime(re.sub("%([a-zA-Z%])", lambda m: own.get(m[1], m[0]), form))

    def __str__(self) -> str:
        return self.date().isoformat()


@dataclass(frozen=True)
class Chat:
    """Writes instructions as the turn of a user, ready for the assistant's answer.

    Attributes
    ----------
    template
        The chat template.
    system
        System turn; it must be in the prompt. None: the one that the template writes unasked, if
        any.
    bare
        Take out a system turn that the template writes unasked.
    """

    template: Template
    system: str | None
    bare: bool = False

    def write(self, instruction: str) -> str:
        """Return the prompt of an instruction.

        Raises
        ------
        SampleError
            ``instruction_missing``: the template does not write the instruction once and whole (but
            for white space at its ends); ``template``: it raises an error.
        """
        before, after = self._frame
        try:
            text = self.template.render(self._turns(self.system, instruction))
        except RefusedError as error:
            raise SampleError("template", f"the chat template refuses it: {error}") from None
        written = text[len(before) : len(text) - len(after)]
        whole = before + written + after == text and written.strip() == instruction.strip()
        if not whole:
            raise SampleError(
                "instruction_missing",
                f"the chat template does not write the instruction once and whole: {text[:200]!r}",
            )
        return self.opening + written + after

    def check(self) -> None:
        """Raise a UserError unless the template writes prompts as they are asked for."""
        self.template.check_arguments()
        _ = self.opening, self.closing

    @property
    def is_possible(self) -> bool:
        """Whether the template writes this system turn; Gemma's, for one, refuses any."""
        try:
            return bool(self._frame)
        except UserError:
            return False

    @property
    def opening(self) -> str:
        """What stands before the instruction in every prompt."""
        return self._kept[0]

    @property
    def closing(self) -> str:
        """What stands between the instruction and the response in every prompt."""
        return self._frame[1]

    @property
    def removed(self) -> str:
        """The system turn that was taken out; empty if there was none."""
        return self._kept[1]

    # --------------------------------------------------------------------------------- the frame

    def _turns(
        self, system: str | None, user: str, style: tuple[bool, bool] | None = None
    ) -> list[dict[str, Any]]:
        parts = self._style if style is None else style
        turns = [] if system is None else [_turn("system", system, parts[0])]
        return [*turns, _turn("user", user, parts[1])]

    @cached_property
    def _style(self) -> tuple[bool, bool]:
        """Whether the template takes the content of system and user turns as a list of parts."""
        marks = [USER] if self.system is None else [SYSTEM, USER]
        faults = []
        for style in ((False, False), (True, True), (False, True), (True, False)):
            system = None if self.system is None else SYSTEM
            try:
                text = self.template.render(self._turns(system, USER, style))
            except RefusedError as error:
                faults.append(f"refuses {' and '.join(_NAMES[m] for m in marks)}: {error}")
                continue
            wrong = [(mark, text.count(mark)) for mark in marks if text.count(mark) != 1]
            if not wrong:
                return style
            faults.append(f"writes {_NAMES[wrong[0][0]]} {wrong[0][1]} times instead of once")
        advice = "; set `system: null`" if self.system is not None else ""
        raise UserError(f"the chat template {faults[0]}{advice}")

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the template writes before and after the user's words."""
        try:
            text = self.template.render(self._turns(self.system, USER))
        except RefusedError as error:
            raise UserError(f"the chat template refuses this system turn: {error}") from None
        before, _found, after = text.partition(USER)
        if self.system is not None:
            marked = self.template.render(self._turns(SYSTEM, USER))
            opening, _, closing = marked.partition(SYSTEM)
            written = text[len(opening) : len(text) - len(closing.replace(SYSTEM, ""))]
            if opening + written + closing != text or written.strip() != self.system.strip():
                raise UserError(
                    f"the chat template does not write the system turn {self.system!r} as it is: "
                    f"{text[:200]!r}; set another one, or `system: null`"
                )
        return before, after

    # --------------------------------------------------------------- a system turn nobody asked for

    @cached_property
    def _kept(self) -> tuple[str, str]:
        """What stands before the user's words, and the system turn that was taken out of it."""
        before, _ = self._frame
        header = self._header(before) if self.bare else None
        if header is None:
            return before, ""
        start = self._bos(before, header)
        rest = before.removeprefix(start)
        if rest.endswith(header):
            extra = rest.removesuffix(header)
            lead = self._preamble(extra, header)
            return start + lead + header, extra.removeprefix(lead)
        if rest.startswith(header):  # within the user's own turn
            return start + header, rest.removeprefix(header)
        return before, ""  # the first turn lacks a separator that later ones begin with

    def _bos(self, before: str, header: str) -> str:
        """Return the BOS that a prompt begins with, unless it opens every turn, as in SmolLM2."""
        bos = self.template.tokenizer.bos_token or ""
        return bos if before.startswith(bos) and not header.startswith(bos) else ""

    def _header(self, before: str) -> str | None:
        """Return what opens a user's turn, None if nothing but that can stand in `before`.

        Found where it can be seen: in front of a second question, and behind a system turn. A
        template that closes turns late makes some of these too long: the shortest is right.
        """
        found = set(self._seen_headers())
        fits = []
        for header in found:
            rest = before.removeprefix(self._bos(before, header))
            if rest.startswith(header) or rest.endswith(header) or header.endswith(rest):
                fits.append(header)
        if fits:
            return min(fits, key=lambda header: (not header, len(header)))
        # a template of a single turn shows no second one: a few words that speak of no system
        if not found and "system" not in before.lower() and len(before.split()) <= 3:
            return None
        raise UserError(
            f"the chat template writes {before[:200]!r} before the user's words, and whether that "
            "is a system turn cannot be told: give one (`system:`), or another template"
        )

    def _seen_headers(self) -> Iterator[str]:
        user, answer = _turn("user", USER, self._style[1]), _turn("assistant", ANSWER, False)
        second, system = _turn("user", SECOND, self._style[1]), _turn("system", SYSTEM, False)
        for first, mark in (([user, answer], ANSWER), ([user], USER)):
            closed, both = self._attempt(first, False), self._attempt([*first, second])
            closing, between = closed.partition(mark)[2], both.partition(mark)[2]
            # with a template that always opens the assistant's turn, the end of one is not seen
            if mark in closed and SECOND in between and between.startswith(closing):
                yield between.partition(SECOND)[0].removeprefix(closing)
        alone, both = self._attempt([system], False), self._attempt([system, user])
        header = both.removeprefix(alone).partition(USER)[0]
        if alone and both.startswith(alone) and USER in both and SYSTEM not in header:
            yield header
        bos = self.template.tokenizer.bos_token or ""
        opening, asked, _ = both.partition(SYSTEM)
        if asked and "system" in opening:  # many templates write the role as it is
            yield opening.replace("system", "user")
            yield opening.removeprefix(bos).replace("system", "user")

    def _attempt(self, turns: list[dict[str, Any]], generate: bool = True) -> str:
        """Return what the template writes; nothing if it refuses, which is no fault in a probe."""
        try:
            return self.template.render(turns, generate)
        except RefusedError:
            return ""

    def _preamble(self, extra: str, header: str) -> str:
        """Return the part of what stands before the user's turn that belongs to no turn.

        Models of GLM begin with special tokens of this kind, as others do with BOS.
        """
        lead = ""
        while mark := next((m for m in self._special if extra.startswith(m, len(lead))), ""):
            if header.startswith(mark):  # opens a turn
                return lead
            lead += mark
        if lead != extra:
            return ""
        # special tokens alone: an empty system turn only if one that is asked for stands in it
        asked = self._attempt([_turn("system", SYSTEM, False), _turn("user", USER, self._style[1])])
        opening = asked.partition(SYSTEM)[0].removeprefix(self.template.tokenizer.bos_token or "")
        return lead if SYSTEM not in asked or opening.startswith(lead) else ""

    @cached_property
    def _special(self) -> list[str]:
        """Texts of the tokenizer's special tokens, longest first."""
        tokens = self.template.tokenizer.added_tokens_decoder.values()
        return sorted((t.content for t in tokens if t.special), key=len, reverse=True)

    def notes(self) -> list[str]:
        """Return what a user should know about these prompts, one per line."""
        told = []
        if self.removed:
            told.append(f"the template's own system turn was taken out: {self.removed!r}")
        if self._is_dated():
            told.append(f"the template writes the date: {self.template.day} (`date`), not today's")
        opened = list(_THINK.finditer(self.closing))
        if opened and not re.search(rf"[<\[]/{opened[-1][1] or opened[-1][2]}[>\]]", self.closing):
            told.append(
                f"the prompt opens a {opened[-1][0]} block: responses are measured inside it"
            )
        return told

    def _is_dated(self) -> bool:
        other = date(self.template.day.year + 11, 11, 11)
        moved = replace(self, template=replace(self.template, day=other))
        return moved.opening != self.opening or moved.closing != self.closing


_NAMES = {USER: "the user's words", SYSTEM: "the system turn"}


def _turn(role: str, text: str, parts: bool) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
