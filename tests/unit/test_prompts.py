"""Prompts as chat templates of many styles write them, or why they do not."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from layergrad.cli.options import template_arguments
from layergrad.config import ModelSpec
from layergrad.errors import UserError
from layergrad.models.encode import Encoder, notes
from layergrad.models.prompts import REASONS, SampleError, Template
from layergrad.models.random import byte_tokenizer

DOCS = Path(__file__).parents[2] / "docs" / "prompts.md"
LOOP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN25 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Q.<|im_end|>\n{% endif %}"
) + LOOP
LLAMA3 = (
    "{{ bos_token }}"
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|head|>system<|end|>\n\nToday Date: {{ date_string }}\n\n{{ system }}<|eot|>"
    "{% for m in messages %}<|head|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|end|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}[SYS]{{ messages[0].content }}[/SYS]"
    "{% set messages = messages[1:] %}{% else %}[SYS]You are M.[/SYS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = 'You are L.' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n"
    "{% set messages = messages[1:] %}{% else %}A chat.\n\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PARTS = LOOP.replace("{{ m.content }}", "{% for c in m.content %}{{ c.text }}{% endfor %}")
NO_SYSTEM = LOOP.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
# Never to be asked about an answer, and the assistant's turn is always opened.
NO_ANSWERS = QWEN25.replace("{% if add_generation_prompt %}", "{% if true %}").replace(
    "<|im_start|>{{ m.role",
    "{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}<|im_start|>{{ m.role",
)
ONE_TURN = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('only users') }}{% endif %}"
    "{% endfor %}{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    "<|user|>\n{{ messages[0].content }}\n<|assistant|>"
)
CUTS = LOOP.replace("m.content", "m.content.split('</think>')[-1]")
WORDS = [
    "q",
    " q",
    "\nq\n\n",
    "q  ",
    "user",
    "system",
    "You are Q.",
    "a user\na user",
    "\u00a0q",
    "",
]


def encoder(chat_template, protocol="clean", system=None, **options):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template
    return Encoder(tokenizer, protocol, True, system, 2000, **options)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (LOOP, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (QWEN25, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (NO_ANSWERS, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (PARTS, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (LLAMA3, "<s><|head|>user<|end|>\n\n", "<|eot|><|head|>assistant<|end|>\n\n"),
        (GEMMA, "<s><turn>user\n", "<end>\n<turn>model\n"),
        (MISTRAL, "<s>[INST]", "[/INST]"),
        (LLAMA2, "<s>[INST] ", " [/INST]"),
        (VICUNA, "USER: ", " ASSISTANT:"),
        (ONE_TURN, "<|user|>\n", "\n<|assistant|>"),
    ],
    ids=[
        "chatml",
        "qwen",
        "no answers",
        "parts",
        "llama3",
        "gemma",
        "mistral",
        "llama2",
        "vicuna",
        "one turn",
    ],
)
def test_without_a_system_turn_there_is_none_whatever_the_instruction(
    template, before, after, words
):
    written = encoder(template).prompt(words)
    assert written.startswith(before) and written.endswith(after)
    assert written[len(before) : len(written) - len(after)] in (words, words.strip())


@pytest.mark.parametrize("template", [LOOP, QWEN25, LLAMA3, MISTRAL, LLAMA2, VICUNA, PARTS])
def test_a_system_turn_that_is_asked_for_is_there_once(template):
    written = encoder(template, system="Be brief.").prompt("q")
    assert written.count("Be brief.") == 1 and "You are" not in written and "A chat" not in written


@pytest.mark.parametrize(
    ("template", "said"),
    [(GEMMA, "refuses the system turn"), (NO_SYSTEM, "writes the system turn 0 times")],
)
def test_a_system_turn_that_would_not_be_there_is_refused(template, said):
    with pytest.raises(UserError, match=f"{said}.*set `system: null`"):
        encoder(template, system="Be brief.")


def test_a_system_turn_that_is_not_written_as_it_is_is_refused():
    template = LOOP.replace("m.content", "m.content.replace('/think', '')")
    with pytest.raises(UserError, match="does not write the system turn '/think'"):
        encoder(template, system="/think")


def test_text_before_the_question_that_may_be_a_system_turn_is_refused():
    template = ONE_TURN.replace("<|user|>", "You are a system that helps.<|user|>")
    with pytest.raises(UserError, match="cannot be told"):
        encoder(template)


def test_special_tokens_before_the_first_turn_are_no_system_turn():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>", "<|user|>"]})
    tokenizer.chat_template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    made = Encoder(tokenizer, "clean", True, None, 100)
    assert made.prompt("q") == "[gMASK]<sop><|user|>\nq<|assistant|>"
    assert notes(made) == []


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_an_instruction_that_the_template_cuts_fails(protocol):
    made = encoder(CUTS, protocol)
    assert "plain" in made.prompt("plain")
    with pytest.raises(SampleError) as caught:
        made.prompt("What does </think> close?")
    assert caught.value.reason == "instruction_missing"


def test_a_template_that_raises_on_one_instruction_fails_that_sample():
    made = encoder("{{ raise_exception('bad\nword') if 'x' in messages[0].content }}" + LOOP)
    assert made.prompt("q")
    with pytest.raises(SampleError, match="bad word") as caught:
        made.prompt("x")
    assert caught.value.reason == "template"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("no words", "writes the user's words 0 times"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "writes the user's words 2 times"),
        ("{{ messages[9].content.text }}", "refuses the user's words"),
        ("{{ 1 / 0 }}", "refuses the user's words: division by zero"),
        ("{% if %}", "cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_on_one_line(template, said):
    with pytest.raises(UserError, match=said) as caught:
        encoder(template)
    assert "\n" not in str(caught.value) and "system: null" not in str(caught.value)


def test_one_of_several_templates_is_chosen_by_name():
    both = {"rag": LOOP, "chat": GEMMA}
    with pytest.raises(UserError, match="no default chat template: choose one of chat, rag"):
        encoder(both)
    assert encoder(both, template="chat").prompt("q") == "<s><turn>user\nq<end>\n<turn>model\n"
    with pytest.raises(UserError, match="no chat template 'tool': choose one of chat, rag"):
        encoder(both, template="tool")
    assert encoder({"default": GEMMA, "rag": LOOP}).prompt("q").startswith("<s><turn>")


def test_arguments_reach_the_template_and_unknown_ones_are_refused():
    thinks = LOOP + "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"
    assert (
        encoder(thinks, template_arguments={"enable_thinking": False})
        .prompt("q")
        .endswith("</think>")
    )
    with pytest.raises(UserError, match="does not read enable_thinkin; it reads enable_thinking"):
        encoder(thinks, template_arguments={"enable_thinkin": False})
    with pytest.raises(UserError, match="messages are set by layergrad"):
        encoder(thinks, template_arguments={"messages": []})


@pytest.mark.parametrize("protocol", ["clean", "paper"])
@pytest.mark.parametrize(
    "today",
    [
        "{{ strftime_now('%A %-d %B %Y %H:%M %Z %s %p %x %X %c %%') }}",
        "{{ date_string }}",
        "{{ datetime.now().strftime('%Y-%m-%d') }} {{ datetime }} {{ datetime.today().year }}",
    ],
)
def test_the_date_is_a_setting(monkeypatch, protocol, today):
    made = {}
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        made[zone] = encoder(today + LOOP, protocol)
        made[zone] = made[zone].turns.template.render([{"role": "user", "content": "q"}])
    monkeypatch.undo()
    time.tzset()
    assert len(set(made.values())) == 1 and "2024" in made["Pacific/Pago_Pago"]
    template = encoder(today + LOOP, protocol, day=datetime.date(2031, 5, 6)).turns.template
    assert "2031" in template.render([{"role": "user", "content": "q"}])


def test_a_date_is_written_in_english_without_a_time_zone():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%a %d %b %y %I %p %z|%%a') }}"
    day = datetime.date(2026, 3, 4)
    assert Template(tokenizer, day=day).render([]) == "Wed 04 Mar 26 12 AM +0000|%a"


def test_the_default_date_is_that_of_llama_3():
    made = encoder(LLAMA3, system="Be brief.")
    without = LLAMA3.replace("strftime_now is defined", "false")
    assert "Today Date: 26 Jul 2024" in made.prompt("q")
    assert encoder(without, system="Be brief.").prompt("q") == made.prompt("q")
    later = encoder(without, system="Be brief.", day=datetime.date(2025, 1, 2))
    assert "Today Date: 02 Jan 2025" in later.prompt("q")


def test_what_a_user_should_know_is_noted():
    assert notes(encoder(GEMMA)) == []
    assert any("taken out" in note and "You are Q." in note for note in notes(encoder(QWEN25)))
    dated = notes(encoder(LLAMA3, system="Be brief."))
    assert any("2024-07-26" in note for note in dated)
    assert not any("date" in note for note in notes(encoder(LLAMA3)))  # it went with the turn
    thinks = notes(
        encoder(GEMMA.replace("<turn>model\n{% endif", "<turn>model\n<think>\n{% endif"))
    )
    assert any("<think> block" in note for note in thinks)
    closed = GEMMA.replace("<turn>model\n{% endif", "<turn>model\n<think></think>{% endif")
    assert notes(encoder(closed)) == []
    paper = notes(encoder(GEMMA, "paper"))
    assert any("2 BOS" in note for note in paper)
    assert any("authors' own is left out" in note for note in paper)


def test_every_reason_is_in_the_docs():
    rows = [line.split("|")[1].strip() for line in DOCS.read_text().splitlines() if "| `" in line]
    assert rows == [f"`{reason}`" for reason in REASONS]


def test_settings_of_templates_are_refused_where_they_would_do_nothing():
    given = {
        "name": "m",
        "source": {"kind": "path", "path": "m"},
        "family": "m",
        "tuning": "instruct",
    }
    for setting in ({"system": "s"}, {"template": "t"}, {"date": "2025-01-02"}):
        with pytest.raises(ValidationError, match="set `chat: true`"):
            ModelSpec(**given, **setting)
        assert (
            ModelSpec(**given, chat=True, **setting).content()
            != ModelSpec(**given, chat=True).content()
        )
    with pytest.raises(ValidationError, match="paper's protocol has its own"):
        ModelSpec(**given, chat=True, protocol="paper", system="s")


def test_options_of_templates_are_read_as_yaml():
    assert template_arguments(["enable_thinking=false", "effort=low"]) == {
        "enable_thinking": False,
        "effort": "low",
    }
    with pytest.raises(UserError, match="write NAME=VALUE"):
        template_arguments(["enable_thinking"])


def test_paper_keeps_the_system_turn_of_a_template():
    assert "You are a helpful assistant." in encoder(QWEN25, "paper").prompt(" q")
    assert encoder(GEMMA, "paper").prompt("q") == "<s><turn>user\nq<end>\n<turn>model\n"
