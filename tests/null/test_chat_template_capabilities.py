"""What templates can do, and messages put the way they want them."""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imp_runtime.errors import ImpError
from imp_server.chat_capabilities import ChatCapabilities, conform
from imp_server.chat_probe import describe, probe
from imp_server.chat_template import ChatTemplate, ChatTemplateError, Json, Message

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "chat_templates"
ALL = {"tools": True, "tool_calls": True, "parallel_calls": True, "tool_results": True}
ONE = {"tools": True, "tool_calls": True, "tool_results": True}


def template(name: str) -> ChatTemplate:
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(), {"bos_token": "<s>", "eos_token": "</s>"})


# Read off the templates by eye.
KNOWN = {
    "chatml_tools": ChatCapabilities("hermes", later_system=False, thinking_switch="enable_thinking", **ALL),
    "headers": ChatCapabilities("llama3", **ONE),
    "alternating": ChatCapabilities("mistral", later_system=False, alternates=True, short_ids=True, **ALL),
    "channels": ChatCapabilities("harmony", **ONE),
    "concatenating": ChatCapabilities(
        "deepseek", arguments="string", thinking_switch="thinking", **(ALL | {"tools": False})
    ),
    "turns_without_system": ChatCapabilities(
        "plain", content_lists=True, system=False, later_system=False, tool_results=True
    ),
    "parts_only": ChatCapabilities("plain", content="list", content_lists=True, tool_results=True),
    "macros": ChatCapabilities("qwen3_coder", tools=True, tool_calls=True, parallel_calls=True),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_template_does(name: str) -> None:
    assert replace(probe(template(name)), written="") == KNOWN[name]


def test_the_file_in_the_artifact() -> None:
    found = describe((TEMPLATES / "concatenating.jinja").read_text())
    assert "first_tool<｜tool▁sep｜>" in found.written
    assert ChatCapabilities.from_json(found.to_json()) == found
    with pytest.raises(ChatTemplateError, match="has an error"):
        describe("{% broken")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"parser": 1}',
        '{"parser": "plain", "written": 1}',
        '{"parser": "plain", "other": 1}',
        '{"parser": "plain", "system": 3}',
    ],
)
def test_a_damaged_file(text: str) -> None:
    with pytest.raises(ImpError, match=r"chat\.json.*compile the model again"):
        ChatCapabilities.from_json(text)


def past_call(arguments: Json) -> Message:
    call: Json = {"id": "abcdefghi", "type": "function", "function": {"name": "now", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def arguments_of(message: Message) -> object:
    return message["tool_calls"][0]["function"]["arguments"]  # type: ignore[index, call-overload]  # a literal above


@pytest.mark.parametrize("given", ['{"a": "é"}', {"a": "é"}])
def test_arguments_in_the_form_that_the_template_wants(given: Json) -> None:
    messages = [past_call(given)]
    (parsed,) = conform(messages, ChatCapabilities("hermes"))
    assert arguments_of(parsed) == {"a": "é"}
    assert parsed["content"] == ""
    (text,) = conform(messages, ChatCapabilities("hermes", arguments="string"))
    assert json.loads(str(arguments_of(text))) == {"a": "é"}
    assert messages == [past_call(given)]


def test_no_arguments() -> None:
    for nothing in ("", None):
        assert arguments_of(conform([past_call(nothing)], ChatCapabilities("hermes"))[0]) == {}


@pytest.mark.parametrize("given", ["{", "[1]", "3"])
def test_arguments_that_are_no_object(given: str) -> None:
    with pytest.raises(ImpError, match="arguments of the past call of 'now' are not a JSON object"):
        conform([past_call(given)], ChatCapabilities("hermes"))


def user(content: Json) -> Message:
    return {"role": "user", "content": content}


def part(text: str) -> Json:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("capabilities", "given", "expected"),
    [
        (ChatCapabilities("plain"), [part("a"), part("b")], "a\nb"),
        (ChatCapabilities("plain"), "a", "a"),
        (ChatCapabilities("plain", content_lists=True), [part("a")], [part("a")]),
        (ChatCapabilities("plain", content="list", content_lists=True), "a", [part("a")]),
        (ChatCapabilities("plain"), None, ""),
        (ChatCapabilities("plain"), [{"type": "image_url"}], [{"type": "image_url"}]),
    ],
)
def test_content(capabilities: ChatCapabilities, given: Json, expected: Json) -> None:
    assert conform([user(given)], capabilities) == [user(expected)]


def test_a_template_without_a_system_turn() -> None:
    capabilities = ChatCapabilities("plain", system=False)
    said: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [part("Be kind.")]},
    ]
    assert conform([*said, user("Hi")], capabilities) == [user("Be brief.\n\nBe kind.\n\nHi")]
    assert conform(said, capabilities) == [user("Be brief.\n\nBe kind.")]
    assert conform([*said, user("Hi")], ChatCapabilities("plain"))[1] == {"role": "system", "content": "Be kind."}
    rendered = template("turns_without_system").render(conform([*said, user("Hi")], capabilities))
    assert "Be brief.\n\nBe kind.\n\nHi" in rendered


@pytest.mark.parametrize("name", KNOWN)
def test_what_conforms_can_be_rendered(name: str) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "sys"}, user([part("ask")]), past_call('{"deep": "value"}'),
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "now", "content": [part("noon")]},
    ]  # fmt: skip
    text = template(name).render(conform(messages, probe(template(name))))
    assert "ask" in text
    assert "'text'" not in text
    if KNOWN[name].tool_calls:
        assert '\\"deep' not in text
        assert "'deep'" not in text
        assert "value" in text
