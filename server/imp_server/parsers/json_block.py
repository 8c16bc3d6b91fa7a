"""Calls as JSON in one block: Nemotron Nano v2 and H, Apriel, MiniMax M1, Granite 3, GigaChat 3.1.

`<TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>`; MiniMax has a line per call instead of a list, Granite and
GigaChat have no end.
"""

from __future__ import annotations

import json
import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, Part, Schema, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_ENDS = {
    "<TOOLCALL>": "</TOOLCALL>",
    "<tool_calls>": "</tool_calls>",
    "<|tool_call|>": "",
    "<|function_call|>": "",
}


class JsonBlockReader(Reader):
    """Content, then one block of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until(tuple(_ENDS), self.visible)
            yield from self.attempt(self._calls(_ENDS[tag]), tag)

    def _calls(self, end: str) -> Steps[None]:
        yield from self.space()
        if (yield from self.peek()) not in "{[":
            raise Malformed
        while (first := (yield from self.peek())) in "{[":
            yield from self.json_calls() if first == "[" else self.json_call()
            yield from self.space()
        yield from self.starts(end)
        yield from self.think_again()


def _syntax(written: str) -> ToolSyntax:
    tag = next((tag for tag in _ENDS if tag in written), "<TOOLCALL>")
    end = _ENDS[tag]
    found = re.search(re.escape(tag) + r"(\s*)(\[?)\s*\{", written)
    gap, bracket = found.groups() if found else ("", "[")

    def call(name: str, schema: Schema) -> tuple[Part, ...]:
        return f'{{"name": {json.dumps(name)}, "arguments": ', Json(schema), "}"

    if bracket:
        return ToolSyntax(call, before=f"{tag}{gap}[", between=", ", after=f"]{end}")
    return ToolSyntax(call, before=f"{tag}{gap}", between=gap if end else None, after=f"{gap}{end}")


FAMILY = Family("json_block", JsonBlockReader, _syntax, marks=tuple((tag,) for tag in _ENDS))
