"""Arguments that are written as one tagged text per parameter, and made JSON by the tool's schema."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping

from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Steps

_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array", dict: "object"}
_ANY = frozenset({"string", *_JSON_TYPES.values()})


def types_of(schema: object, root: Mapping[str, object], depth: int = 8) -> frozenset[str]:
    """The JSON types that `schema` allows; local references are looked up in `root`."""
    if not isinstance(schema, Mapping) or depth == 0:
        return _ANY
    if isinstance(reference := schema.get("$ref"), str):
        target: object = root
        for key in reference.removeprefix("#/").split("/"):
            target = target.get(key) if isinstance(target, Mapping) else None
        return types_of(target, root, depth - 1)
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(str(name) for name in named)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return frozenset(_JSON_TYPES.get(type(value), "string") for value in values)
    for combined in ("anyOf", "oneOf", "allOf"):
        if isinstance(several := schema.get(combined), list):
            return frozenset().union(*(types_of(each, root, depth - 1) for each in several))
    return _ANY


def cast(text: str, types: frozenset[str]) -> str:
    """`text` as JSON of one of `types`; as a string when it is of none."""
    bare = text.strip()
    if "boolean" in types and bare.lower() in ("true", "false"):
        return bare.lower()
    if "null" in types and bare.lower() in ("null", "none"):
        return "null"
    if types & {"integer", "number"} and _NUMBER.fullmatch(bare):
        return bare if "number" in types or bare.lstrip("-").isdigit() else _whole(bare)
    for name, bracket in (("object", "{"), ("array", "[")):
        if name in types and bare.startswith(bracket) and (value := _container(bare)) is not None:
            return value
    return json.dumps(text, ensure_ascii=False)


def _whole(number: str) -> str:
    value = float(number)
    return str(int(value)) if value.is_integer() else number


def _container(text: str) -> str | None:
    """The JSON of a list or a dict that is written in JSON or as Python does."""
    try:
        json.loads(text)
    except ValueError:
        try:
            return json.dumps(ast.literal_eval(text), ensure_ascii=False)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return text


class TaggedReader(Reader):
    """A parser that writes the JSON object of a call's arguments parameter by parameter."""

    def begin(self, name: str) -> None:
        """Open a call."""
        self.open(name)
        self._schema = self.schemas.get(name, {})
        self._parameters = 0

    def parameter(self, key: str, ends: tuple[str, ...], *, string: bool | None = None, lines: bool) -> Steps[str]:
        """Read a value up to one of `ends`, which is returned.

        `string` says whether the value is a string; None leaves that to the schema. With `lines` the value stands on
        lines of its own: one line break at its beginning and one at its end are not part of it.
        """
        self.arguments(("{" if self._parameters == 0 else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        self._parameters += 1
        properties = self._schema.get("properties")
        types = frozenset({"string"})
        if isinstance(properties, Mapping) and key in properties:
            types = types_of(properties[key], self._schema)
        elif string is False:
            types = _ANY
        if string or types == {"string"}:
            self.arguments('"')
            value = _Lines(lines)
            end = yield from self.until(ends, lambda text: self._characters(value.push(text)))
            self.arguments('"')
            return end
        parts: list[str] = []
        end = yield from self.until(ends, parts.append)
        text = "".join(parts)
        self.arguments(cast(text.removeprefix("\n").removesuffix("\n") if lines else text, types))
        return end

    def complete(self) -> None:
        """Close the call."""
        self.arguments("}" if self._parameters else "")
        self.close()

    def _characters(self, text: str) -> None:
        self.arguments(json.dumps(text, ensure_ascii=False)[1:-1])


class _Lines:
    """Text without one line break at its beginning and one at its end."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._first = on
        self._held = ""

    def push(self, text: str) -> str:
        if not self._on or not text:
            return text
        if self._first:
            text = text.removeprefix("\n")
            self._first = False
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        return text.removesuffix("\n")
