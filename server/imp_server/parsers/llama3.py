"""Llama 3 and 4: the reply is `{"name": ..., "parameters": {...}}`, several with `;` between, or `[name(key=value)]`.

`<|python_tag|>` may stand before a call. Nothing else marks one, so only names of given tools are calls.
"""

from __future__ import annotations

import json

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.pythonic import PythonicReader
from imp_server.parsers.text import Steps

_TAGS = ("<|python_tag|>", "<|python_start|>")


class Llama3Reader(PythonicReader):
    """A reply that is calls, or content, in which only a tag begins one."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        yield from self.attempt(self._calls())
        while True:
            tag = yield from self.until(_TAGS, self.visible)
            yield from self.attempt(self._calls(), tag)

    def _calls(self) -> Steps[None]:
        yield from self.space()
        while True:
            first = yield from self.peek()
            if first == "{":
                self.quotes = '"'
                yield from self.json_call()
                self.quotes = "\"'"
            elif first == "[":
                yield from self.python_calls()
            else:
                yield from self.python_call(".call")
            yield from self.space()
            if not (yield from self.starts(";")) and (yield from self.peek()) != "{":
                yield from self.starts("<|python_end|>")
                return
            self.record()
            yield from self.space()


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(
        lambda name, schema: (f'{{"name": {json.dumps(name)}, "parameters": ', Json(schema), "}"), between="; "
    )


FAMILY = Family(
    "llama3",
    Llama3Reader,
    _syntax,
    marks=(("<|start_header_id|>",), ("<|python_tag|>",), ("<|header_start|>",), ("<|python_start|>",)),
)
