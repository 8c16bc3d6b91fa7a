"""Chat templates: the fixtures' truth from Hugging Face, and what its environment promises to templates."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import pytest

from fake_engine import gguf_fields
from imp_server.chat.template import ChatTemplate, ChatTemplateError, Json

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "chat_templates"
RENDERED = json.loads((TEMPLATES / "truth.json").read_text("utf-8"))
CONVERSATIONS = json.loads((TEMPLATES / "conversations.json").read_text("utf-8"))
TRUTH = json.loads((Path(__file__).parents[1] / "fixtures" / "qwen3" / "tokenizer_truth.json").read_text("utf-8"))


def render(source: str, messages: list[dict[str, Json]] | None = None, **variables: Json) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"}, now=lambda: datetime(2024, 7, 26, 9, 30))
    return template.render(messages or [{"role": "user", "content": "Hi"}], variables=variables)


def test_the_fixture() -> None:
    source = gguf_fields()["tokenizer.chat_template"]
    assert isinstance(source, str)
    assert ChatTemplate(source, {}).render(TRUTH["chat_messages"]) == TRUTH["chat_text"]


@pytest.mark.parametrize("case", RENDERED)
def test_as_transformers_renders_it(case: str) -> None:
    """Every conversation by every template; where transformers refuses, so do we."""
    template, _, name = case.partition(": ")
    conversation = CONVERSATIONS[name]
    source = (TEMPLATES / f"{template}.jinja").read_text("utf-8")
    ours = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, now=lambda: datetime(2024, 7, 26, 9, 30))

    def text() -> str:
        return ours.render(
            conversation["messages"],
            tools=conversation.get("tools"),
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            variables=conversation.get("variables"),
        )

    if "error" in RENDERED[case]:
        with pytest.raises(ChatTemplateError, match=re.escape(RENDERED[case]["error"])):
            text()
    else:
        assert text() == RENDERED[case]["text"]


def test_every_template_and_conversation_is_in_the_truth() -> None:
    assert len(list(TEMPLATES.glob("*.jinja"))) * len(CONVERSATIONS) == len(RENDERED)


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
        ("{{ date_string }}, {{ datetime }}", "26 Jul 2024, Jul 26 2024"),
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
    assert render("{{ date_string }}, {{ datetime }}", date_string="then") == "then, Jul 26 2024"


def test_tools_as_a_text() -> None:
    """Firefunction's `functions`, which its makers fill with json.dumps(..., indent=4)."""
    template, asked = ChatTemplate("{{ functions }}|", {}), [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": "é", "parameters": {"type": "object"}}}]
    assert template.render(asked) == "|"
    assert template.render(asked, tools=tools) == json.dumps(tools, indent=4, ensure_ascii=False) + "|"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must\n alternate') }}", "refuses these messages: Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "cannot render"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ missing.field }}", "refuses.*undefined"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{{ namespace(_x=1) }}", "refuses.*_x"),
        ("{% set ns = namespace() %}{% set ns.__x = 1 %}", "refuses.*__x"),
        ("{{ dict.__init__ }}{{ dict.mro() }}", "refuses"),
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


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    ],
)
def test_a_template_cannot_take_for_ever(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_server.chat.template.MOST_SECONDS", 0.2)
    start = time.perf_counter()
    with pytest.raises(ChatTemplateError, match="too expensive"):
        render(source)
    assert time.perf_counter() - start < 3


def test_reasoning_by_any_of_its_names() -> None:
    source = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert render(source, [{"role": "assistant", "content": "", name: "hm"}]) == "hm|hm"
