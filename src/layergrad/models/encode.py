"""From an instruction and a response to tokens, in the authors' way or in a clean one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from layergrad.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAPER_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens.

    Attributes
    ----------
    ids
        Token ids, the prompt first.
    start
        Index of the first response token; the loss is over the tokens from here on.
    full_length
        Number of tokens before anything was cut off.
    """

    ids: tuple[int, ...]
    start: int
    full_length: int

    @property
    def response_tokens(self) -> int:
        """Number of tokens in the loss."""
        return max(len(self.ids) - self.start, 0)

    def shortened(self, response_tokens: int) -> Encoded:
        """Return the sample with at most so many response tokens, the first."""
        return Encoded(self.ids[: self.start + response_tokens], self.start, self.full_length)


class SampleError(Exception):
    """A sample that cannot be measured: `reason` for the failures table, message for detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Encoder:
    """Writes samples as tokens for one model.

    Attributes
    ----------
    tokenizer
        A fast tokenizer.
    protocol
        ``paper``: text is tokenised with special tokens whatever the chat template already holds
        (two BOS for Llama and Gemma), the boundary is the token count of the text before the last
        occurrence of the response, and what exceeds `max_length` is cut off. ``clean``: one BOS,
        the boundary from character offsets, and a sample that does not fit is refused.
    chat
        Write the instruction with the chat template.
    system
        System turn; ``paper`` always uses the authors' own where the template accepts one.
    max_length
        Longest sample, in tokens.
    cut
        Keep only this many response tokens; None keeps all.
    """

    tokenizer: PreTrainedTokenizerBase
    protocol: str
    chat: bool
    system: str | None
    max_length: int
    cut: int | None = None

    def __post_init__(self) -> None:
        if self.chat and not self.tokenizer.chat_template:
            raise UserError(
                "chat is on, but the tokenizer has no chat template: turn it off (`chat: false`, "
                "`--no-chat`) for this model"
            )
        if self.protocol == "clean" and not self.tokenizer.is_fast:
            raise UserError("the clean protocol needs a fast tokenizer (tokenizer.json)")

    def prompt(self, instruction: str) -> str:
        """Return the text before the response."""
        if not self.chat:
            return instruction + "\n"
        user = {"role": "user", "content": instruction}
        system = PAPER_SYSTEM if self.protocol == "paper" else self.system
        if system is not None and (self.protocol == "clean" or self._accepts_system):
            return self._template([{"role": "system", "content": system}, user])
        text = self._template([user])
        return text if self.protocol == "paper" else self._without_default_system(text, instruction)

    def encode(self, instruction: str, response: str) -> Encoded:
        """Return the tokens of a sample.

        Raises
        ------
        SampleError
            ``no_response_tokens`` or ``truncated``.
        """
        prompt = self.prompt(instruction)
        encoded = (
            self._paper(prompt, response)
            if self.protocol == "paper"
            else (self._clean(prompt, response))
        )
        if self.cut is not None:
            encoded = encoded.shortened(self.cut)
        if encoded.response_tokens == 0:
            raise SampleError(
                "no_response_tokens",
                f"the prompt takes {encoded.start} tokens, max_length is {self.max_length}"
                if response
                else "the response is empty",
            )
        return encoded

    def _paper(self, prompt: str, response: str) -> Encoded:
        text = prompt + response
        ids = self.tokenizer(text)["input_ids"]
        start = len(self.tokenizer(text[: text.rfind(response)])["input_ids"])
        return Encoded(tuple(ids[: self.max_length]), max(start, 1), len(ids))

    def _clean(self, prompt: str, response: str) -> Encoded:
        # a chat template writes its own BOS; without one the tokenizer adds it
        encoding = self.tokenizer(
            prompt + response, add_special_tokens=not self.chat, return_offsets_mapping=True
        )
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        if ids and ids[-1] == self.tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = (
                ids[:-1],
                offsets[:-1],
            )  # an EOS that the tokenizer added: not in the loss
        # the first token with a character of the response; special tokens cover no characters
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        if len(ids) > self.max_length:
            raise SampleError(
                "truncated", f"{len(ids)} tokens do not fit in max_length {self.max_length}"
            )
        return Encoded(tuple(ids), max(start, 1), len(ids))

    def _template(self, turns: list[dict[str, str]], generate: bool = True) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generate
            )
        except TemplateError as error:
            raise UserError(
                f"the tokenizer's chat template refused the turns "
                f"{[turn['role'] for turn in turns]}: {error}; set `system: null`"
            ) from None

    @cached_property
    def _accepts_system(self) -> bool:
        """Gemma's template refuses a system turn; the authors leave it out there."""
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        try:
            self._template(turns)
        except UserError:
            return False
        return True

    @cached_property
    def _user_opening(self) -> str:
        """What the template writes before the words of a user's turn."""
        turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "#answer#"}]
        question = {"role": "user", "content": "#question#"}
        closing = self._template(turns, generate=False).split("#answer#")[-1]
        between = self._template([*turns, question], generate=False).split("#answer#")[-1]
        return between.split("#question#")[0].removeprefix(closing)

    def _without_default_system(self, text: str, instruction: str) -> str:
        """Drop the system turn that some templates write unasked; keep a BOS before it."""
        start = text.find(self._user_opening + instruction.strip())
        bos = self.tokenizer.bos_token
        if start <= 0 or (bos and text[:start] == bos):
            return text
        rest = text[start:]
        return bos + rest if bos and text.startswith(bos) and not rest.startswith(bos) else rest


Marked = list[tuple[str, bool]]


def view(encoder: Encoder, encoded: Encoded) -> Marked:
    """Return the text of every token of a sample, and whether the token is in the loss.

    Parameters
    ----------
    encoder
        The encoder that wrote the sample.
    encoded
        The sample.

    Returns
    -------
    list of (str, bool)
        One pair per token, in order. A token that is no whole character (bytes of one) is given as
        the vocabulary writes it.
    """
    texts = [_text_of(encoder.tokenizer, encoded.ids, i) for i in range(len(encoded.ids))]
    return [(text, i >= encoded.start) for i, text in enumerate(texts)]


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], i: int) -> str:
    """Return what a token adds to the text of the one before it.

    Decoded alone, a token of sentencepiece would lose the space that it begins with.
    """
    before = decode(tokenizer, ids[max(i - 1, 0) : i])
    both = decode(tokenizer, ids[max(i - 1, 0) : i + 1])
    added = both[len(before) :]
    if both.startswith(before) and added and "\ufffd" not in added:
        return added
    return str(tokenizer.convert_ids_to_tokens(ids[i]))


def decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    """Return the text of tokens, special ones and all spaces included."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def printed(view: Marked, limit: int = 40) -> str:
    r"""Return a view on one line: the prompt as text, then each token in the loss between « and ».

    Line breaks are written as ``\n``. Of more than `limit` tokens in the loss, and of more than ten
    times as many characters of the prompt, the middle is left out; how much is said.
    """
    prompt = "".join(text for text, in_loss in view if not in_loss)
    loss = [f"«{text}»" for text, in_loss in view if in_loss]
    half = limit // 2
    if len(loss) > limit:
        loss[half:-half] = [f" ... {len(loss) - 2 * half} tokens ... "]
    if len(prompt) > 10 * limit:
        left_out = f" ... {len(prompt) - 10 * limit} characters ... "
        prompt = prompt[: 5 * limit] + left_out + prompt[-5 * limit :]
    return escaped(prompt + "".join(loss))


def escaped(text: str) -> str:
    r"""Return a text on one line: line breaks and other control characters as ``\n``, ``\t``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def notes(encoder: Encoder) -> list[str]:
    """Return what a user should know about the prompts that an encoder writes, a line each."""
    return []
