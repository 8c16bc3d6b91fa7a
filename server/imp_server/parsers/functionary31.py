"""Functionary 3.1: `<function=name>{"key": "value"}</function>` per call."""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_FUNCTION, _FUNCTION_END = "<function=", "</function>"


class Functionary31Reader(Reader):
    """Content, then calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_FUNCTION,), self.visible)
            yield from self.attempt(self._call(), tag)

    def _call(self) -> Steps[None]:
        name = yield from self.word(">", "\n")
        yield from self.space()
        if not name or (yield from self.peek()) != "{":
            raise Malformed
        self.open(name)
        yield from self.json_value(self.arguments)
        self.close()
        yield from self.space()
        yield from self.starts(_FUNCTION_END)
        yield from self.space()


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(lambda name, schema: (f"{_FUNCTION}{name}>", Json(schema), _FUNCTION_END))


FAMILY = Family("functionary31", Functionary31Reader, _syntax, marks=(("<function=", "<|eom_id|>"),))
