"""From an instruction and a response to tokens, in the authors' way or in a clean one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layergrad.config import TEMPLATE_DATE
from layergrad.errors import UserError
from layergrad.models.prompts import Chat, SampleError, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAPER_SYSTEM = "You are a helpful assistant."

# What a response may stand behind to be written as if it stood alone: the first that no token of
# the response takes in. A line break first, since most prompts end in one.
_ANCHORS = ("\n", "a", ".", "0", " ")


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


@dataclass(frozen=True)
class Encoder:
    r"""Writes samples as tokens for one model.

    **The clean protocol.** The tokens in the loss are the text of the response, all of it and
    nothing else, after the tokenizer's own normaliser; every sample is verified, and fails
    otherwise. Prompt and response are written as one text, and character offsets decide where the
    response begins. A token that would hold characters of both (``\n`` of the prompt and
    ``\n\n`` of the response, or a space that goes to the word behind it) is not allowed: prompt
    and response are then written apart. This is the one rule that keeps both contracts: to put the
    token in the loss would train on the prompt, to leave it out would not train on the whole
    response, and to refuse the sample would take answers that begin with a line break or an
    indentation out of every study. It is also what a model meets in use, where the prompt's tokens
    are fixed before the first token of the answer is chosen. Where this cannot be done the sample
    fails with the reason ``boundary``.

    There is one BOS if the template writes one or the tokenizer adds one, never two; a tokenizer
    that has a BOS and adds none, as that of GPT-2, gets none. What a tokenizer adds at the end
    (EOS) is left out: an EOS is in the loss only if the text of the response holds it.

    **The paper's protocol** is what the authors did: the text is tokenised with special tokens
    whatever the chat template already holds (two BOS for Llama and Gemma), the response begins
    after as many tokens as the prompt has alone, so that a token that holds characters of both
    counts as prompt, and what exceeds `max_length` is cut off. Where that count would put tokens of
    the prompt in the loss, the sample fails (``boundary``).

    Attributes
    ----------
    tokenizer
        A fast tokenizer.
    protocol
        ``paper`` or ``clean``.
    chat
        Write the instruction with the chat template.
    system
        System turn; None: none, also where the template writes one unasked. ``paper`` always uses
        the authors' own where the template writes it, and else what the template writes.
    max_length
        Longest sample, in tokens.
    cut
        Keep only this many response tokens; None keeps all.
    template, template_arguments, day
        Of :class:`~layergrad.models.prompts.Template`.

    Raises
    ------
    UserError
        If the chat template does not write prompts as asked for.
    """

    tokenizer: PreTrainedTokenizerBase
    protocol: str
    chat: bool
    system: str | None
    max_length: int
    cut: int | None = None
    template: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    day: date = TEMPLATE_DATE

    def __post_init__(self) -> None:
        if self.protocol == "clean" and not self.tokenizer.is_fast:
            raise UserError("the clean protocol needs a fast tokenizer (tokenizer.json)")
        if self.chat:
            self.turns.check()

    @cached_property
    def turns(self) -> Chat:
        """Writes instructions with the chat template."""
        template = Template(self.tokenizer, self.template, self.template_arguments, self.day)
        if self.protocol == "clean":
            return Chat(template, self.system, bare=self.system is None)
        asked = Chat(template, PAPER_SYSTEM)
        return asked if asked.is_possible else Chat(template, None)

    def prompt(self, instruction: str) -> str:
        """Return the text before the response.

        Raises
        ------
        SampleError
            ``instruction_missing`` or ``template``.
        """
        return self.turns.write(instruction) if self.chat else instruction + "\n"

    def encode(self, instruction: str, response: str) -> Encoded:
        """Return the tokens of a sample.

        Raises
        ------
        SampleError
            One of :data:`~layergrad.models.prompts.REASONS`.
        """
        prompt = self.prompt(instruction)
        if not response:
            raise SampleError("no_response_tokens", "the response is empty")
        write = self._paper if self.protocol == "paper" else self._clean
        encoded = write(prompt, response)
        return encoded if self.cut is None else encoded.shortened(self.cut)

    # ----------------------------------------------------------------------------------- paper

    def _paper(self, prompt: str, response: str) -> Encoded:
        head, ids = self._with_added(prompt), self._with_added(prompt + response)
        start = max(len(head), 1)
        encoded = Encoded(tuple(ids[: self.max_length]), start, len(ids))
        if not encoded.response_tokens:
            raise SampleError(
                "no_response_tokens",
                f"the prompt takes {start} tokens, max_length is {self.max_length}",
            )
        supervised = self._added_text(ids[:start], ids[start:])
        if supervised is None or not self._is_end(supervised, response):
            text = self._text(ids)[len(self._text(ids[:start])) :]
            raise SampleError(
                "boundary", f"tokens of the prompt would be in the loss: {text[:60]!r}"
            )
        return encoded

    def _is_end(self, text: str, response: str) -> bool:
        """Whether a text is the response, or what follows a token that begins in the prompt."""
        text, response = self._normalised(text), self._normalised(response)
        return response.endswith((text, text.removeprefix(" ")))

    def _with_added(self, text: str) -> list[int]:
        """Return the tokens of a text with what the tokenizer adds, but for its end."""
        ids = self._tokenise(text, add_special_tokens=True)["input_ids"]
        end = self._added[1]
        return ids[: -len(end)] if end and ids[-len(end) :] == end else ids

    # ----------------------------------------------------------------------------------- clean

    def _clean(self, prompt: str, response: str) -> Encoded:
        found = self._together(prompt, response) or self._apart(prompt, response)
        ids, start = (*found[0], *found[1]), len(found[0])
        if len(ids) > self.max_length:
            raise too_long(len(ids), self.max_length)
        if not start:
            raise SampleError("no_prompt_tokens", "no token stands before the response")
        return Encoded(ids, start, len(ids))

    def _together(self, prompt: str, response: str) -> tuple[list[int], list[int]] | None:
        """Return the tokens of prompt and response as one text, None if a token holds both."""
        encoding = self._tokenise(prompt + response, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        if start == len(ids) or offsets[start][0] < len(prompt):
            return None
        head, tail = self._opened(ids[:start]), ids[start:]
        # offsets leave out white space that some tokens begin with: what the tokens read as decides
        alone = self._opened(self._ids(prompt))
        if self._text(head) != self._text(alone) or not self._reads(head, tail, response):
            return None
        return head, tail

    def _apart(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Return the tokens of prompt and response such that no token holds both.

        The response is written behind a character that stays a token of its own, since alone it
        would get the space that some tokenizers put before a text.
        """
        head = self._opened(self._ids(prompt))
        tails = list(self._tails(response))
        if not tails:
            raise SampleError("boundary", f"the response {response[:40]!r} merges with any prompt")
        for tail in tails:
            if tail and self._reads(head, tail, response):
                return head, tail
        if not any(tails):
            raise SampleError(
                "no_response_tokens", f"the tokenizer makes no token of {response[:40]!r}"
            )
        found = self._added_text(head, next(filter(None, tails)))
        raise SampleError(
            "response_changed", f"in tokens the response reads {_difference(found, response)}"
        )

    def _tails(self, response: str) -> Iterable[list[int]]:
        for anchor in _ANCHORS:
            before, both = self._ids(anchor), self._ids(anchor + response)
            if both[: len(before)] == before:
                yield both[len(before) :]

    def _opened(self, ids: list[int]) -> list[int]:
        """Return the tokens of a prompt with exactly the BOS that the model is to see."""
        bos, first = self.tokenizer.bos_token_id, self._added[0]
        rest = list(ids)
        while rest and rest[0] == bos:
            rest.pop(0)
        if len(rest) < len(ids) and bos not in first:
            return [bos, *rest]
        return rest if rest[: len(first)] == first else [*first, *rest]

    @cached_property
    def _added(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds before and after any text."""
        ids = self.tokenizer("a")["input_ids"]
        own = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        for i in range(len(ids) - len(own) + 1):
            if ids[i : i + len(own)] == own:
                return ids[:i], ids[i + len(own) :]
        return [], []

    # ------------------------------------------------------------------------ what tokens read as

    def _reads(self, head: list[int], tail: list[int], response: str) -> bool:
        """Whether tokens behind others read as the response."""
        found = self._added_text(head, tail)
        if found is None or found == response:
            return found is not None
        found, wanted = self._normalised(found), self._normalised(response)
        # some tokenizers put a space before whatever follows a special token
        return found in (wanted, " " + wanted)

    def _added_text(self, head: list[int], tail: list[int]) -> str | None:
        before, both = self._text(head), self._text([*head, *tail])
        return both.removeprefix(before) if both.startswith(before) else None

    def _normalised(self, text: str) -> str:
        """Return a text as the tokenizer sees it, without spaces if it does not keep them."""
        text = self._normal(text)
        return text if self._keeps_spaces else "".join(text.split())

    def _normal(self, text: str) -> str:
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        text = normalizer.normalize_str(text) if normalizer else text
        return text.replace("\u2581", " ")  # how sentencepiece writes a space

    @cached_property
    def _keeps_spaces(self) -> bool:
        """Whether spaces and line breaks can be read from tokens; WordPiece drops them."""
        texts = ("a b", "a  b", "a\nb", "a.b")
        read = [self._normal(self._text(self._ids(text))).lstrip(" ") for text in texts]
        return read == [self._normal(text).lstrip(" ") for text in texts]

    def _text(self, ids: Iterable[int]) -> str:
        return decode(self.tokenizer, ids)

    def _ids(self, text: str) -> list[int]:
        return self._tokenise(text)["input_ids"]

    def _tokenise(self, text: str, add_special_tokens: bool = False, **options: Any) -> Any:
        try:
            return self.tokenizer(text, add_special_tokens=add_special_tokens, **options)
        except (
            Exception
        ) as error:  # tokenizers raises plain ones, for a lone surrogate for instance
            raise SampleError("tokenizer", f"the tokenizer refuses the text: {error}") from None


def _difference(found: str | None, wanted: str) -> str:
    """Return both texts from where they begin to differ."""
    found = found or ""
    same = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), 0)
    return f"{found[same : same + 40]!r} instead of {wanted[same : same + 40]!r}"


def too_long(tokens: int, max_length: int) -> SampleError:
    """Return the failure of a sample that does not fit in `max_length`."""
    return SampleError("too_long", f"{tokens} tokens do not fit in max_length {max_length}")


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
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if type(decoder).__name__ == "WordPiece":  # its own decoder rewrites "do not" as "don't"
        words = tokenizer.convert_ids_to_tokens(list(ids))
        return "".join(w[2:] if w.startswith("##") else f" {w}" for w in words).removeprefix(" ")
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
    """Return what a user should know about the prompts that an encoder writes, one per line."""
    told = encoder.turns.notes() if encoder.chat else []
    if encoder.chat and encoder.protocol == "paper" and encoder.turns.system is None:
        told.append("the template takes no system turn: the authors' own is left out")
    bos = encoder.tokenizer.bos_token_id
    try:
        ids = encoder.encode("What is this?", "This.").ids
    except SampleError:
        return told
    count = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    if count > 1:
        told.append(f"{count} BOS begin a sample, as in the paper")
    if bos is not None and count == 0:
        token = encoder.tokenizer.bos_token
        told.append(f"no BOS begins a sample: the tokenizer has {token!r} and does not add it")
    return told
