"""DeepSeek R1, V3 and V3.1: special tokens around a name and JSON."""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Malformed, Steps

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_NAME = re.compile(r"[\w./-]+")


class DeepSeekReader(Reader):
    """Content, then a block of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALLS, _CALL), self.visible)
            yield from self.attempt(self._tokens(tag), tag)

    def _tokens(self, tag: str) -> Steps[None]:
        if tag == _CALLS:
            yield from self.expect(_CALL)
        while True:
            yield from self._token_call()
            yield from self.space()
            if not (yield from self.starts(_CALL)):
                break
            self.record(_CALL)
        yield from self.starts(_CALLS_END)

    def _token_call(self) -> Steps[None]:
        name = yield from self.match(_NAME)
        yield from self.expect(_SEPARATOR)
        yield from self.space()
        if (yield from self.peek()) != "{":  # R1 and V3: what came first was the type, "function"
            name = yield from self.match(_NAME)
            yield from self.expect("```json")
            yield from self.space()
            if (yield from self.peek()) != "{":
                raise Malformed
        self.open(name)
        yield from self.json_value(self.arguments)
        self.close()
        yield from self.space()
        yield from self.starts("```")
        yield from self.space()
        yield from self.starts(_CALL_END)


def _syntax(written: str) -> ToolSyntax:
    if "```json" in written:
        begin, middle, end, between = f"{_CALL}function{_SEPARATOR}", "\n```json\n", f"\n```{_CALL_END}", "\n"
    else:
        begin, middle, end, between = _CALL, _SEPARATOR, _CALL_END, ""
    return ToolSyntax(
        lambda name, schema: (f"{begin}{name}{middle}", Json(schema), end),
        before=_CALLS,
        between=between,
        after=_CALLS_END,
    )


FAMILY = Family("deepseek", DeepSeekReader, _syntax, marks=((_CALLS,), ("<｜Assistant｜>",)))
