"""Kimi K2: special tokens around an id that holds the name, `functions.name:0`, and JSON."""

from __future__ import annotations

import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, Pattern, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_CALLS, _CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID = re.compile(r"(?:functions\.)?([\w./-]+)(?::\d+)?")


class KimiReader(Reader):
    """Content, then a section of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALLS, _CALL), self.visible)
            yield from self.attempt(self._calls(tag), tag)

    def _calls(self, tag: str) -> Steps[None]:
        if tag == _CALLS:
            yield from self.expect(_CALL)
        while True:
            given = _ID.fullmatch((yield from self.word(_ARGUMENTS)))
            yield from self.space()
            if given is None or (yield from self.peek()) != "{":
                raise Malformed
            self.open(given[1], given[0])
            yield from self.json_value(self.arguments)
            self.close()
            yield from self.space()
            yield from self.starts(_CALL_END)
            yield from self.space()
            if not (yield from self.starts(_CALL)):
                break
            self.record(_CALL)
        yield from self.starts(_CALLS_END)
        yield from self.think_again()


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(
        lambda name, schema: (f"{_CALL}functions.{name}:", Pattern("[0-9]{1,2}"), _ARGUMENTS, Json(schema), _CALL_END),
        before=_CALLS,
        after=_CALLS_END,
    )


FAMILY = Family("kimi", KimiReader, _syntax, marks=((_CALLS,),))
