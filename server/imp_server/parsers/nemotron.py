"""Nemotron Nano v2 and H: `<TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>`."""

from __future__ import annotations

import json

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Steps


class NemotronReader(Reader):
    """Content, then one array of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until(("<TOOLCALL>",), self.visible)
            yield from self.attempt(self._calls(), tag)

    def _calls(self) -> Steps[None]:
        yield from self.space()
        yield from self.json_call() if (yield from self.peek()) == "{" else self.json_calls()
        yield from self.space()
        yield from self.starts("</TOOLCALL>")
        yield from self.think_again()


def _syntax(template: str) -> ToolSyntax:
    return ToolSyntax(
        lambda name, schema: (f'{{"name": {json.dumps(name)}, "arguments": ', Json(schema), "}"),
        before="<TOOLCALL>[",
        between=", ",
        after="]</TOOLCALL>",
    )


FAMILY = Family("nemotron", NemotronReader, _syntax, marks=(("<TOOLCALL>",),))
