"""Samples as tokens, in both protocols."""

from __future__ import annotations

import pytest

from layergrad.errors import UserError
from layergrad.models.encode import Encoder, SampleError
from layergrad.models.random import byte_tokenizer

SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|system|>\nI am a default.\n{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def encoder(protocol="clean", chat=False, system=None, max_length=200, cut=None, template=None):
    tokenizer = byte_tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    return Encoder(tokenizer, protocol, chat, system, max_length, cut)


def supervised(made: Encoder, instruction: str, response: str) -> str:
    sample = made.encode(instruction, response)
    return made.tokenizer.decode(sample.ids[sample.start :])


@pytest.mark.parametrize("protocol", ["paper", "clean"])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("response", ["Yes.", "a\nb\n\nc", "é 漢字 \t x", "What?"])
def test_the_loss_is_over_the_response_alone(protocol, chat, response):
    made = encoder(protocol, chat)
    assert supervised(made, "What? Yes. a\nb", response) == response


def test_clean_begins_with_one_bos_and_paper_with_the_templates_and_its_own():
    bos = byte_tokenizer().bos_token_id
    assert encoder("clean", True).encode("q", "r").ids.count(bos) == 1
    assert encoder("paper", True).encode("q", "r").ids.count(bos) == 2
    assert encoder("clean").encode("q", "r").ids.count(bos) == 1


def test_paper_asks_for_its_system_turn_and_does_without_where_it_is_refused():
    assert "You are a helpful assistant." in encoder("paper", True).prompt("q")
    assert encoder("paper", True, template=GEMMA).prompt("q") == "<s><user>q</><model>"


def test_clean_drops_a_default_system_turn_unless_one_is_asked_for():
    assert encoder("clean", True, template=SYSTEM).prompt("q") == "<|user|>\nq\n<|assistant|>\n"
    asked = encoder("clean", True, system="Be brief.", template=SYSTEM).prompt("q")
    assert asked == "<|system|>\nBe brief.\n<|user|>\nq\n<|assistant|>\n"


def test_paper_cuts_what_is_too_long_and_clean_refuses_it():
    sample = encoder("paper", max_length=20).encode("q" * 10, "r" * 30)
    assert len(sample.ids) == 20 and sample.full_length == 42 and sample.start == 12
    with pytest.raises(SampleError, match="max_length 20") as caught:
        encoder("clean", max_length=20).encode("q" * 10, "r" * 30)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize(("instruction", "response"), [("q" * 30, "r"), ("q", "")])
def test_a_sample_without_response_tokens_fails(instruction, response):
    with pytest.raises(SampleError) as caught:
        encoder("paper", max_length=20).encode(instruction, response)
    assert caught.value.reason == "no_response_tokens"


def test_responses_can_be_cut_to_equal_length():
    made = encoder(cut=4)
    assert supervised(made, "q", "abcdefgh") == "abcd"
    assert supervised(made, "q", "ab") == "ab"


def test_chat_without_a_template_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Encoder(tokenizer, "clean", True, None, 100)
