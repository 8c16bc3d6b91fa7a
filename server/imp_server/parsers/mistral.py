"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, since 2025 `[TOOL_CALLS]name[ARGS]{...}` per call."""

from __future__ import annotations

import json
import re
import secrets

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, Part, Pattern, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[\w./-]+")
_NINE = Pattern("[a-zA-Z0-9]{9}")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class MistralReader(Reader):
    """Content, then calls in either spelling."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALLS,), self.visible)
            yield from self.attempt(self._call(), tag)

    def new_id(self) -> str:
        """Nine letters or digits: what the templates insist on."""
        return "".join(secrets.choice(_LETTERS) for _ in range(9))

    def _call(self) -> Steps[None]:
        yield from self.space()
        first = yield from self.peek()
        if first in "[{":
            yield from self.json_calls() if first == "[" else self.json_call()
        else:
            name = yield from self.match(_NAME)
            given = (yield from self.match(_NAME)) if (yield from self.starts(_ID)) else None
            yield from self.starts(_ARGUMENTS)
            yield from self.space()
            if (yield from self.peek()) != "{":
                raise Malformed
            self.open(name, given)
            yield from self.json_value(self.arguments)
            self.close()
        yield from self.space()


def _syntax(written: str) -> ToolSyntax:
    if _ID in written:
        return ToolSyntax(lambda name, schema: (f"{_CALLS}{name}{_ID}", _NINE, _ARGUMENTS, Json(schema)))
    if _ARGUMENTS in written:
        return ToolSyntax(lambda name, schema: (f"{_CALLS}{name}{_ARGUMENTS}", Json(schema)))
    end: tuple[Part, ...] = (', "id": "', _NINE, '"}') if '"id"' in written else ("}",)
    return ToolSyntax(
        lambda name, schema: (f'{{"name": {json.dumps(name)}, "arguments": ', Json(schema), *end),
        before=f"{_CALLS}[",
        between=", ",
        after="]",
    )


FAMILY = Family("mistral", MistralReader, _syntax, marks=((_CALLS,), ("[INST]",)))
