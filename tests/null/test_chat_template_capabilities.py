"""What templates can do, and messages put the way they want them."""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from imp_runtime.errors import ImpError
from imp_server.chat.capabilities import ChatCapabilities, conform
from imp_server.chat.form import ChatForm
from imp_server.chat.probe import describe, probe
from imp_server.chat.template import ChatTemplate, ChatTemplateError, Json, Message

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "chat_templates"
ALL = {"tools": True, "tool_calls": True, "parallel_calls": True, "tool_results": True}
ONE = {"tools": True, "tool_calls": True, "tool_results": True}


def template(name: str) -> ChatTemplate:
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text("utf-8"), {"bos_token": "<s>", "eos_token": "</s>"})


# Read off the templates by eye.
KNOWN = {
    "chatml_tools": ChatCapabilities(
        "hermes", later_system=False, text_arguments=True, thinking_switch="enable_thinking", **ALL
    ),
    "headers": ChatCapabilities("llama3", **ONE),
    "alternating": ChatCapabilities("mistral", later_system=False, alternates=True, short_ids=True, **ALL),
    "channels": ChatCapabilities("harmony", **ONE),
    "concatenating": ChatCapabilities(
        "deepseek", arguments="string", text_arguments=True, thinking_switch="thinking", **(ALL | {"tools": False})
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
    found = describe((TEMPLATES / "concatenating.jinja").read_text("utf-8"))
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


@pytest.mark.parametrize("given", ['{"city": "Pa', "[1]", "3"])
def test_arguments_that_are_no_object(given: str) -> None:
    """As a call that `max_tokens` cut: the model sees what it wrote."""
    (dict_only,) = conform([past_call(given)], ChatCapabilities("hermes"))
    assert arguments_of(dict_only) == {"invalid_json": given}
    (text_too,) = conform([past_call(given)], ChatCapabilities("hermes", text_arguments=True))
    assert arguments_of(text_too) == given
    (text,) = conform([past_call(given)], ChatCapabilities("hermes", arguments="string"))
    assert arguments_of(text) == given


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.tool_calls])
def test_a_conversation_with_a_broken_call_and_foreign_ids_goes_on(name: str) -> None:
    call: Json = {"id": "toolu_01/x", "type": "function", "function": {"name": "now", "arguments": '{"city": "Pa'}}
    messages: list[Message] = [
        user("ask"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "now", "content": "bad JSON"},
        user("again"),
    ]
    text = ChatForm.of(template(name)).render(messages)
    assert "city" in text
    assert "Pa" in text
    assert ("bad JSON" in text) == KNOWN[name].tool_results
    assert "again" in text


def test_results_get_the_ids_of_their_calls() -> None:
    def calls(*ids: str) -> Message:
        named: Json = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
        return {"role": "assistant", "content": "", "tool_calls": named}

    def result(given: str | None) -> Message:
        return {"role": "tool", "content": "r"} | ({} if given is None else {"tool_call_id": given})

    messages = [calls("a", "b", "c"), result("b"), result(None), result(None), result(None), calls("d"), result(None)]
    found = conform(messages, ChatCapabilities("hermes", arguments="string"))
    assert [each.get("tool_call_id") for each in found if each["role"] == "tool"] == ["b", "a", "c", None, "d"]


def test_short_ids() -> None:
    foreign, fit = "call_0a1b2c3d4e5f6071", "abcDEF123"
    both: Json = [
        {"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in (foreign, fit)
    ]
    messages: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": both},
        {"role": "tool", "tool_call_id": fit, "content": "2"},
        {"role": "tool", "tool_call_id": foreign, "content": "1"},
    ]
    call, second, first = conform(messages, ChatCapabilities("mistral", short_ids=True))
    ids = [each["id"] for each in call["tool_calls"]]  # type: ignore[union-attr, index, call-overload]
    assert ids == [first["tool_call_id"], second["tool_call_id"]]
    assert ids[1] == fit
    assert re.fullmatch("[a-zA-Z0-9]{9}", str(ids[0]))
    later = conform(messages[2:], ChatCapabilities("mistral", short_ids=True))
    assert later[0]["tool_call_id"] == ids[0]
    assert conform(messages, ChatCapabilities("mistral"))[2]["tool_call_id"] == foreign


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
