"""Functionary 3.2: every part of a reply says whom it is for, `>>>all` the user, `>>>name` a function.

The prompt ends with the first `>>>`; a line break stands behind the name, and behind that text or JSON.
"""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_TO, _ALL = ">>>", "all\n"


class Functionary32Reader(Reader):
    """A series of parts, the first of which the prompt may have begun."""

    def reply(self, prompt_tail: str) -> Steps[None]:
        """See Reader."""
        if prompt_tail.endswith(_TO):
            yield from self._part("")
        while True:
            tag = yield from self.until((_TO,), self.visible)
            yield from self._part(tag)

    def _part(self, begun: str) -> Steps[None]:
        if not (yield from self.starts(_ALL)):
            yield from self.attempt(self._call(), begun)

    def _call(self) -> Steps[None]:
        name = yield from self.word("\n", _TO)
        if name not in self.schemas:
            raise Malformed
        yield from self.space()
        if (yield from self.peek()) != "{":
            raise Malformed
        self.open(name)
        yield from self.json_value(self.arguments)
        self.close()
        yield from self.space()


def _syntax(written: str) -> ToolSyntax:
    return ToolSyntax(lambda name, schema: (f"{name}\n", Json(schema)), between=_TO)


FAMILY = Family("functionary32", Functionary32Reader, _syntax, marks=((">>>all",),))
