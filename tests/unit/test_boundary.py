"""The tokens in the loss are the response, whatever the tokenizer does."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from layergrad.models.encode import Encoder, decode, printed, view
from layergrad.models.prompts import REASONS, SampleError
from tests.unit.tokenizers_of_kinds import KINDS, tokenizer_of

SPACES = [kind for kind in KINDS if kind != "word piece"]
ODD = ["\n\n6 and", "\n\n\n", "    return x", " Yes", "  ", "\tif", "Yes.\n", "\n Yes"]
PROMPTS = ["Add 2", "Add 2 ", "Add 2  \n", "def f(x):\n    "]


def encoder(kind, protocol="clean", ending=None, **options):
    tokenizer = tokenizer_of(kind)
    if ending is not None:
        tokenizer.chat_template = f"{{{{ messages[0].content + {ending!r} }}}}"
    return Encoder(tokenizer, protocol, ending is not None, None, 4096, **options)


def in_loss(made, sample):
    before = decode(made.tokenizer, sample.ids[: sample.start])
    return decode(made.tokenizer, sample.ids).removeprefix(before)


def normal(made, text):
    """Return a text as the tokenizer normalises it."""
    normalizer = made.tokenizer.backend_tokenizer.normalizer
    return (normalizer.normalize_str(text) if normalizer else text).replace("\u2581", " ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [None, "", " ", "\n", "\n\n", ": ", "<|assistant|>\n"])
def test_a_response_is_in_the_loss_whole_and_alone(kind, ending):
    made = encoder(kind, ending=ending)
    written = 0
    for prompt in PROMPTS:
        for response in ["Yes.", "instead", "Do not stop.", *ODD]:
            try:
                sample = made.encode(prompt, response)
            except SampleError as error:
                # these cannot write white space, or a line break, in any company
                assert kind in ("word piece", "unigram", "unigram, first"), (response, error)
                continue
            written += 1
            found, wanted = normal(made, in_loss(made, sample)), normal(made, response)
            if kind == "word piece":
                found, wanted = "".join(found.split()), "".join(wanted.split())
            assert found in (wanted, " " + wanted)
            whole = decode(made.tokenizer, sample.ids[: sample.start])
            alone = decode(made.tokenizer, made._opened(made._ids(made.prompt(prompt))))
            assert whole == alone
    assert written >= 3 * len(PROMPTS)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)), prompt=st.text(max_size=12), response=st.text(max_size=20)
)
def test_any_text_is_written_whole_or_fails_with_a_reason(kind, prompt, response):
    made = encoder(kind)
    try:
        sample = made.encode(prompt, response)
    except SampleError as error:
        assert error.reason in REASONS
        return
    found, wanted = normal(made, in_loss(made, sample)), normal(made, response)
    if kind not in SPACES or not made._keeps_spaces:
        found, wanted = "".join(found.split()), "".join(wanted.split())
    assert found in (wanted, " " + wanted)


@settings(max_examples=40, deadline=None)
@given(prompt=st.text(max_size=12), response=st.text(min_size=1, max_size=20))
def test_bytes_write_every_text_exactly(prompt, response):
    made = encoder("byte-level, no words")
    assert in_loss(made, made.encode(prompt, response)) == response


def test_a_token_that_would_hold_both_is_written_apart():
    made = encoder("byte-level", ending=" ")
    joined = made.tokenizer("Answer: Yes")["input_ids"]
    sample = made.encode("Answer:", "Yes")
    assert list(sample.ids) != joined  # there the space belongs to the word
    assert in_loss(made, sample) == "Yes"


def test_decomposed_text_is_the_response_of_a_tokenizer_that_composes():
    made = encoder("byte-level, NFC")
    text = "Một cộng một là hai."
    composed = made.encode("q", unicodedata.normalize("NFC", text))
    assert made.encode("q", unicodedata.normalize("NFD", text)) == composed


def test_an_accent_is_not_taken_from_the_response_by_the_prompt():
    made = encoder("byte-level, NFC", ending="")
    assert in_loss(made, made.encode("Add e", "\u0301 is")) == "\u0301 is"


def test_text_that_the_tokenizer_cannot_write_fails():
    with pytest.raises(SampleError) as caught:
        encoder("word piece").encode("Add 2", "Yes 漢.")
    assert caught.value.reason == "response_changed"
    with pytest.raises(SampleError) as caught:
        encoder("byte-level").encode("Add 2", "a \ud83d b")
    assert caught.value.reason == "tokenizer"


def test_a_response_with_nothing_before_it_fails():
    with pytest.raises(SampleError) as caught:
        encoder("byte-level", ending="").encode("", "Yes")
    assert caught.value.reason == "no_prompt_tokens"


def test_white_space_that_a_token_of_the_prompt_would_take_in_is_kept():
    made = encoder("tokens that strip", ending="<|assistant|>\n")
    assert in_loss(made, made.encode("Add 2", "\n\nYes")) == "\n\nYes"
    assert in_loss(made, made.encode("Add 2", "<think>\nno</think>Yes")) == "<think>\nno</think>Yes"


@pytest.mark.parametrize("bos", ["", "<s>", "<s><s>"])
@pytest.mark.parametrize("kind", ["unigram", "byte fallback"])  # they add one
def test_one_bos_whoever_writes_it(kind, bos):
    tokenizer = tokenizer_of(kind)
    tokenizer.chat_template = bos + "{{ messages[0].content }}"
    ids = Encoder(tokenizer, "clean", True, None, 99).encode("Add 2", "Yes").ids
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_no_bos_where_none_is_written_or_added():
    made = encoder("byte-level")
    assert made.tokenizer.bos_token_id not in made.encode("Add 2", "Yes").ids


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_eos_is_in_the_loss_only_as_part_of_the_response(protocol):
    made = encoder("unigram", protocol)
    eos = made.tokenizer.eos_token_id
    assert eos not in made.encode("Add 2", "Yes").ids
    assert made.encode("Add 2", "Yes</s>").ids[-1] == eos


def test_paper_counts_a_token_across_as_prompt():
    made = encoder("byte-level, no words", "paper")
    prompt, response = "stop.", "\n\nWhat is it? Yes."
    sample = made.encode(prompt, response)
    assert sample.start == len(made.tokenizer("stop.\n")["input_ids"])
    assert response.endswith(in_loss(made, sample)) and in_loss(made, sample) != response


def test_paper_never_has_the_prompt_in_the_loss():
    made = encoder("byte-level", "paper")
    alone, both = (made.tokenizer(text)["input_ids"] for text in ("x: \n", "x: \nYes"))
    assert both[: len(alone)] != alone  # alone, the prompt has fewer tokens
    with pytest.raises(SampleError) as caught:
        made.encode("x: ", "Yes")
    assert caught.value.reason == "boundary"


def test_paper_sees_a_token_of_the_prompt_that_the_normaliser_hides():
    made = encoder("byte-level", "paper")
    made.tokenizer.backend_tokenizer.normalizer = normalizers.Strip(left=False, right=True)
    with pytest.raises(SampleError) as caught:
        made.encode("What is it?", "Four.")
    assert caught.value.reason == "boundary"


def test_a_view_marks_the_loss_and_is_printed_on_one_line():
    made = encoder("byte-level", ending="\n")
    sample = made.encode("Add 2", "Yes\n")
    marked = view(made, sample)
    assert len(marked) == len(sample.ids)
    assert "".join(text for text, loss in marked if loss) == "Yes\n"
    line = printed(marked)
    assert line.startswith("Add 2\\n\u00ab") and "\n" not in line
    long = printed([("p" * 1000, False)] + [("t", True)] * 100, limit=10)
    assert "900 characters" in long and "90 tokens" in long and len(long) < 200


def test_added_tokens_in_a_response_stay_whole():
    tokenizer = tokenizer_of("byte-level, trimmed offsets")
    tokenizer.add_tokens([AddedToken("<tool>")])
    made = Encoder(tokenizer, "clean", False, None, 99)
    sample = made.encode("Add 2", "<tool>x")
    assert tokenizer.convert_tokens_to_ids("<tool>") == sample.ids[sample.start]
