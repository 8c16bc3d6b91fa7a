"""Chat templates: the fixtures' truth from Hugging Face, and what its environment promises to templates."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from fake_engine import gguf_fields
from imp_server.chat_template import ChatTemplate, ChatTemplateError, Json

TRUTH = json.loads((Path(__file__).parents[1] / "fixtures" / "qwen3" / "tokenizer_truth.json").read_text())


def render(source: str, messages: list[dict[str, Json]] | None = None, **variables: Json) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"}, now=lambda: datetime(2024, 7, 26, 9, 30))
    return template.render(messages or [{"role": "user", "content": "Hi"}], variables=variables)


def test_the_fixture() -> None:
    source = gguf_fields()["tokenizer.chat_template"]
    assert isinstance(source, str)
    assert ChatTemplate(source, {}).render(TRUTH["chat_messages"]) == TRUTH["chat_text"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Hi"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "013"),
        ("{{ {'a': '<é>&\"'} | tojson }}", '{"a": "<é>&\\""}'),
        ("{{ {'b': 1, 'a': [1]} | tojson(indent=1, sort_keys=true) }}", '{\n "a": [\n  1\n ],\n "b": 1\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("a{% generation %}{{ messages[0].role }}{% endgeneration %}b", "auserb"),
        ("{% if tools is none and documents is none and add_generation_prompt %}yes{% endif %}", "yes"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{{ 'abc'.startswith('a') }}{{ missing }}", "True"),
        ("{{ x is defined and x is sameas false }}", "True"),
    ],
)  # fmt: skip
def test_what_templates_rely_on(source: str, text: str) -> None:
    assert render(source, x=False) == text


def test_variables_replace_special_tokens_but_not_the_messages() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ bos_token }}", {"bos_token": "<s>"})
    variables: dict[str, Json] = {"messages": "x", "bos_token": "y"}
    assert template.render([{"role": "user", "content": "Hi"}], variables=variables) == "Hiy"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must\n alternate') }}", "refuses these messages: Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "cannot render"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ missing.field }}", "refuses.*undefined"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{{ range(10000000) | list }}", "cannot render"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_refusals_are_errors_for_people(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message) as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_a_syntax_error_is_told_when_the_template_is_compiled() -> None:
    with pytest.raises(ChatTemplateError, match="chat template has an error"):
        ChatTemplate("{% if %}", {})
