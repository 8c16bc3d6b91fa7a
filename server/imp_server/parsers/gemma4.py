"""Gemma 4: `<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>`; FunctionGemma with tags of its own."""

from __future__ import annotations

import json
import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import (
    OneOf,
    Part,
    Pattern,
    Schema,
    ToolSyntax,
    Until,
    separated,
    text_of,
    with_definitions,
)
from imp_server.parsers.reader import Reader
from imp_server.parsers.tagged import types_of
from imp_server.parsers.text import Malformed, Steps
from imp_server.parsers.thinking import Thinking

_QUOTES = {"<|tool_call>": '<|"|>', "<start_function_call>": "<escape>"}
_ENDS = {"<|tool_call>": "<tool_call|>", "<start_function_call>": "<end_function_call>"}
_NAME = re.compile(r"[\w./-]+")
_LITERAL = re.compile(r"[^,}\]]*")


class Gemma4Reader(Reader):
    """Content, then calls, whose arguments become JSON as they come."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until(tuple(_ENDS), self.visible)
            yield from self.attempt(self._call(tag), tag)

    def _call(self, tag: str) -> Steps[None]:
        yield from self.expect("call:")
        name = yield from self.match(_NAME)
        yield from self.expect("{")
        self.open(name)
        yield from self._object(_QUOTES[tag])
        self.close()
        yield from self.space()
        yield from self.starts(_ENDS[tag])
        yield from self.space()
        yield from self.think_again()

    def _object(self, quote: str) -> Steps[None]:
        """The rest of an object, whose bracket is consumed."""
        self.arguments("{")
        yield from self.space()
        first = True
        while not (yield from self.starts("}")):
            self.arguments("" if first else ", ")
            first = False
            if (yield from self.starts(quote)):
                key = yield from self.word(quote)
                yield from self.expect(":")
            else:
                key = (yield from self.word(":")).strip('"')
            self.arguments(f"{json.dumps(key, ensure_ascii=False)}: ")
            yield from self._value(quote)
            yield from self._separator("}")
        self.arguments("}")

    def _list(self, quote: str) -> Steps[None]:
        self.arguments("[")
        yield from self.space()
        first = True
        while not (yield from self.starts("]")):
            self.arguments("" if first else ", ")
            first = False
            yield from self._value(quote)
            yield from self._separator("]")
        self.arguments("]")

    def _separator(self, end: str) -> Steps[None]:
        yield from self.space()
        if not (yield from self.starts(",")) and (yield from self.peek()) != end:
            raise Malformed
        yield from self.space()

    def _value(self, quote: str) -> Steps[None]:
        yield from self.space()
        if (yield from self.starts(quote)):
            self.arguments('"')
            yield from self.until((quote,), lambda text: self.arguments(json.dumps(text, ensure_ascii=False)[1:-1]))
            self.arguments('"')
        elif (yield from self.peek()) == '"':
            yield from self.json_value(self.arguments)
        elif (yield from self.starts("{")):
            yield from self._object(quote)
        elif (yield from self.starts("[")):
            yield from self._list(quote)
        else:
            self.arguments(_literal((yield from self.match(_LITERAL)).strip()))


def _literal(text: str) -> str:
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text


def _syntax(written: str) -> ToolSyntax:
    tag = next((tag for tag in _ENDS if tag in written), "<|tool_call>")
    quote = _QUOTES[tag]

    def call(name: str, schema: Schema) -> tuple[Part, ...]:
        return f"{tag}call:{name}", *_typed(schema, schema, quote), _ENDS[tag]

    return ToolSyntax(call)


def _typed(schema: object, root: Schema, quote: str, depth: int = 6) -> tuple[Part, ...]:
    """The parts of a value; an object of known properties has them in order."""
    if not isinstance(schema, dict):
        schema = {}
    types = types_of(schema, root)
    properties = schema.get("properties")
    if types == {"object"} and isinstance(properties, dict) and depth:
        return _object(schema, properties, root, quote, depth)
    if isinstance(schema.get("enum"), list) and types == {"string"}:
        return (OneOf(tuple((f"{quote}{word}{quote}",) for word in schema["enum"])),)
    if types == {"array"} and depth:
        item = _typed(schema.get("items"), root, quote, depth - 1)
        return "[", OneOf(((*item, OneOf(((",", *item), ()))), ())), "]"
    if "string" in types:
        return quote, Until(quote, text_of(schema))
    if types <= {"integer", "number", "boolean", "null"}:
        return (with_definitions(schema, root),)
    return (Pattern(r"\{[^{}]*\}"),)


def _object(schema: Schema, properties: dict[str, object], root: Schema, quote: str, depth: int) -> tuple[Part, ...]:
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    values = [((f"{key}:", *_typed(value, root, quote, depth - 1)), key in needed) for key, value in properties.items()]
    return ("{", *separated(values, ","), "}")


FAMILY = Family(
    "gemma4",
    Gemma4Reader,
    _syntax,
    marks=(("<|tool_call>",), ("<start_function_call>",), ("<|turn>", "<|channel>")),
    thinking=Thinking("<|channel>thought\n", "<channel|>"),
)
