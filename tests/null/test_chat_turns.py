"""The turns that agents send, and what templates make of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from test_chat_template_capabilities import KNOWN, template

from imp_server.chat.capabilities import ChatCapabilities, conform
from imp_server.chat.probe import probe
from imp_server.chat.template import Json, Message

TOOL: Mapping[str, Json] = {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": {}}}
ALL = ChatCapabilities("plain", tool_calls=True, parallel_calls=True)


def turn(role: str, text: Json, **more: Json) -> Message:
    return {"role": role, "content": text, **more}


def calls(*places: str) -> list[Json]:
    """Calls whose argument is `place`; ids have nine letters because some templates insist on that."""
    return [
        {"id": f"idididid{place}", "type": "function", "function": {"name": "look", "arguments": {"at": f"say{place}"}}}
        for place in places
    ]


def result(place: str, text: str) -> Message:
    return turn("tool", text, tool_call_id=f"idididid{place}", name="look")


def part(text: str) -> Json:
    return {"type": "text", "text": text}


# As Claude Code and Codex send them: a system turn behind the user's, two users in a row, and one behind a result.
AGENT: list[Message] = [
    turn("system", "say1"), turn("system", "say2"), turn("user", "say3"), turn("user", "say4"), turn("system", "say5"),
    turn("assistant", "", tool_calls=calls("6", "7")), result("6", "say8"), result("7", "say9"), turn("user", "say0"),
]  # fmt: skip
LOST = {"macros": "89", "alternating": "12"}  # shows no results at all; the system turn only with a last user turn


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].tool_calls])
def test_nothing_of_an_agents_turns_is_lost(name: str, tools: list[Mapping[str, Json]] | None) -> None:
    chosen = template(name)
    text = chosen.render(conform(AGENT, probe(chosen)), tools=tools)
    expected = "1234567890" if KNOWN[name].parallel_calls else "1234568790"  # a call, its result, a call, its result
    assert "".join(re.findall(r"say(\d)", text)) == "".join(each for each in expected if each not in LOST.get(name, ""))


def test_what_a_template_takes_is_left_alone() -> None:
    assert conform(AGENT, ALL) == AGENT


def test_a_system_turn_that_comes_late_is_said_by_the_user_where_it_stands() -> None:
    capabilities = ChatCapabilities("plain", later_system=False)
    given = [
        turn("system", "a"),
        turn("developer", "b"),
        turn("user", "c"),
        turn("system", "d"),
        turn("assistant", "e"),
    ]
    expected = [turn("system", "a\n\nb"), turn("user", "c"), turn("user", "d"), turn("assistant", "e")]
    assert conform(given, capabilities) == expected
    # Also where there is no system turn at all: what was rendered before stays as it was.
    without = ChatCapabilities("plain", system=False)
    before = [turn("user", "a\n\nb\n\nc")]
    assert conform(given[:3], without) == before
    assert conform(given, without) == [*before, turn("user", "d"), turn("assistant", "e")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([turn("user", "a"), turn("user", "b")], [turn("user", "a\n\nb")]),
        ([turn("user", ""), turn("user", "b")], [turn("user", "b")]),
        ([turn("user", [part("a")]), turn("user", "b")], [turn("user", [part("a"), part("\n\n"), part("b")])]),
        ([result("1", "a"), turn("user", "b"), turn("user", "c")], [result("1", "a\n\nb\n\nc")]),
        ([result("1", "a"), result("2", "b")], [result("1", "a"), result("2", "b")]),
        ([turn("user", "a"), turn("assistant", "b"), turn("user", "c")],) * 2,
    ],
)
def test_alternating(given: list[Message], expected: list[Message]) -> None:
    assert conform(given, ChatCapabilities("plain", content_lists=True, alternates=True)) == expected


def test_one_call_a_turn() -> None:
    capabilities = ChatCapabilities("plain", tool_calls=True)
    given = [
        turn("assistant", "I look", tool_calls=calls("1", "2", "3"), reasoning_content="So"),
        result("3", "c"), result("1", "a"), result("9", "?"), turn("user", "Go on"),
    ]  # fmt: skip
    assert conform(given, capabilities) == [
        turn("assistant", "I look", tool_calls=calls("1"), reasoning_content="So"), result("1", "a"),
        turn("assistant", "", tool_calls=calls("2")),
        turn("assistant", "", tool_calls=calls("3")), result("3", "c"), result("9", "?"), turn("user", "Go on"),
    ]  # fmt: skip
    one = [turn("assistant", "", tool_calls=calls("1")), result("1", "a")]
    assert conform(one, capabilities) == one
