"""Qwen 2.5 and 3, Hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

import json

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax, between
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps
from imp_server.parsers.thinking import QWEN_BRIDGE


class HermesReader(Reader):
    """Content, then calls between tags; a tag may hold several."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until(("<tool_call>",), self.visible)
            yield from self.attempt(self._call(), tag)

    def _call(self) -> Steps[None]:
        yield from self.space()
        if (yield from self.peek()) not in "{[":
            raise Malformed
        while (first := (yield from self.peek())) in "{[":
            yield from self.json_calls() if first == "[" else self.json_call()
            yield from self.space()
        yield from self.starts("</tool_call>")
        yield from self.think_again()


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(
        lambda name, schema: (
            f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ',
            Json(schema),
            "}\n</tool_call>",
        ),
        between=between(written, "</tool_call>", "<tool_call>", "\n"),
    )


FAMILY = Family("hermes", HermesReader, _syntax, marks=(("<tool_call>",),), bridge=QWEN_BRIDGE)
