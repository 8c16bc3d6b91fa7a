"""Formats and tools together, and the schemas of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from test_structured import TOOLS, Vocabulary, allowed, special_tokens, vocabulary

from imp_server import parsers
from imp_server.api.conversation import Conversation, Grammar
from imp_server.api.reply_grammar import constraint
from imp_server.errors import ApiError
from imp_server.generation.constraint import Constraint
from imp_server.grammar import masks

Z = Grammar(
    "json_schema",
    '{"type": "object", "properties": {"z": {"type": "integer"}}, "required": ["z"], "additionalProperties": false}',
)
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@dataclass(frozen=True, eq=False)
class Special(Vocabulary):
    special: Mapping[str, int]


def special() -> Special:
    plain = vocabulary(tags=True)
    return Special(plain.backend, plain.vocab, plain.stop_tokens, special_tokens(plain))


def asked(**wishes: Any) -> Conversation:
    return replace(Conversation((), {}, tools=TOOLS), **wishes)


def make(conversation: Conversation, family: str = "hermes", template: str = "", tail: str = "") -> Constraint:
    made = constraint(special(), parsers.for_model(template, family), conversation, tail)  # type: ignore[arg-type]
    assert made is not None
    return made


def fits(held: Constraint, vocab: Vocabulary, text: str) -> bool:
    """Whether all tokens of `text` are allowed, and then a stop token; while the model thinks, all are."""
    mask = masks.start(held, vocab)
    for token in vocab.encode(text):
        if mask.mask() is not None and token not in allowed(mask, vocab):
            return False
        mask.accept(token)
    return mask.mask() is None or bool(set(vocab.stop_tokens) & set(allowed(mask, vocab)))


def test_a_reply_with_a_format_may_be_a_call() -> None:
    mask = make(asked(grammar=Z))
    assert fits(mask, special(), '{"z": 12}')
    assert fits(mask, special(), NOW)
    assert fits(mask, special(), f"{NOW}\n{NOW}")
    for text in ("Hello", '{"z": 12}' + NOW, NOW + '{"z": 12}', '{"y": 1}', "<tool_call>\n{}", '{"z": "'):
        assert not fits(mask, special(), text), text
    assert not fits(make(asked(grammar=Z, parallel=False)), special(), f"{NOW}\n{NOW}")


def test_a_call_that_begins_like_the_format() -> None:
    """Llama's calls are bare JSON, as the content is."""
    mask = make(asked(grammar=Z), "llama3")
    assert fits(mask, special(), '{"z": 12}')
    assert fits(mask, special(), '{"name": "now", "parameters": {}}')
    assert not fits(mask, special(), '{"name": "then", "parameters": {}}')


def test_behind_the_reasoning() -> None:
    for tail, begin in (("", "<think>hm</think>\n\n"), ("", ""), ("<think>\n", "hm</think>\n\n")):
        mask = make(asked(grammar=Z), template="<think></think>", tail=tail)
        assert fits(mask, special(), begin + '{"z": 12}')
        assert fits(mask, special(), begin + NOW)
        assert not fits(mask, special(), begin + '{"y": 12}')


def test_harmony() -> None:
    mask = make(asked(grammar=Z), "harmony", tail="<|start|>assistant")
    assert fits(mask, special(), "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}")
    assert fits(mask, special(), '<|channel|>final<|message|>{"z": 1}')
    assert not fits(mask, special(), '<|channel|>final<|message|>{"y": 1}')


def test_no_calls_where_none_are_wanted() -> None:
    for mask in (
        make(asked(grammar=Z, choice="none")),
        make(asked(grammar=Z, tools=())),
        make(asked(grammar=Z, choice="none"), "plain"),
    ):
        assert fits(mask, special(), '{"z": 12}')
        assert not fits(mask, special(), NOW)
    for family in ("hermes", "plain"):
        assert constraint(special(), parsers.for_model("", family), asked(), "") is None  # type: ignore[arg-type]


def test_a_format_beside_tools_is_refused_where_a_call_could_not_be_told() -> None:
    """Else no call could ever come, and nobody would know why."""
    with pytest.raises(ApiError, match=r"writes tool calls is not known.*tool_choice none") as caught:
        make(asked(grammar=Z), "plain")
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    with pytest.raises(ApiError, match="use tool_choice auto"):
        make(asked(choice="required"), "plain")


def tool(parameters: object, **more: object) -> list[dict[str, object]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]


def called(arguments: object) -> str:
    return f'<tool_call>\n{{"name": "f", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}}}
LOOKS_AHEAD = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}, "required": ["a"]}


def test_a_tool_that_is_not_strict_is_held_to_what_can_be_enforced() -> None:
    mask = make(asked(tools=tool(UNIQUE), choice="required"))
    assert fits(mask, special(), called({"a": [1, 1]}))
    assert not fits(mask, special(), called({"a": ["x"]}))
    # A pattern that no automaton has: the parameters' names are what is left.
    mask = make(asked(tools=tool(LOOKS_AHEAD), choice="required"))
    assert fits(mask, special(), called({"a": "q"}))
    either = {"type": "object", "properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}
    assert fits(make(asked(tools=tool(either), choice="required")), special(), called({"a": 1}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (UNIQUE, r"^the tool 'f', parameters\.properties\.a: uniqueItems cannot be enforced"),
        (LOOKS_AHEAD, r"^the tool 'f', parameters: the JSON schema cannot be used: .*look-ahead"),
        (
            {"type": "object", "properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}},
            r"^the tool 'f', parameters: the JSON schema cannot be used: properties\.a\.oneOf: two alternatives",
        ),
    ],
)
def test_a_strict_tool_is_refused_by_name(parameters: object, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        make(asked(tools=[*TOOLS, *tool(parameters, strict=True)], choice="required"))
    assert "%json" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_named_tool_must_be_fit() -> None:
    tools: Sequence[dict[str, object]] = [*TOOLS, *tool(UNIQUE, strict=True)]
    assert fits(make(asked(tools=tools, choice="named", tool="now")), special(), NOW)
