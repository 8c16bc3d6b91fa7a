"""DeepSeek: special tokens around a name and JSON (R1, V3, V3.1), or DSML, which tags every parameter (V3.2, V4)."""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, ToolSyntax, tagged_call
from imp_server.parsers.tagged import TaggedReader
from imp_server.parsers.text import Malformed, Steps

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_NAME = re.compile(r"[\w./-]+")
# The model drops the DSML token now and then, so each tag is known with and without it.
_DSML = tuple(f"<{token}{name}>" for token in ("｜DSML｜", "") for name in ("function_calls", "tool_calls"))


class DeepSeekReader(TaggedReader):
    """Content, then a block of calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALLS, _CALL, *_DSML), self.visible)
            yield from self.attempt(self._dsml(tag) if tag in _DSML else self._tokens(tag), tag)

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

    def _dsml(self, tag: str) -> Steps[None]:
        token = "｜DSML｜" if "DSML" in tag else ""
        begin, end = f'<{token}invoke name="', f"</{token}invoke>"
        yield from self.expect(begin)
        while True:
            yield from self._invoke(token, end)
            yield from self.space()
            if not (yield from self.starts(begin)):
                break
            self.record(begin)
        yield from self.starts(f"</{tag[1:]}")

    def _invoke(self, token: str, end: str) -> Steps[None]:
        parameter, value_end = f'<{token}parameter name="', f"</{token}parameter>"
        name = yield from self.word('"')
        yield from self.expect(">")
        yield from self.space()
        more = yield from self.starts(parameter)
        if not more:
            yield from self.expect(end)
        self.begin(name)
        while more:
            key = yield from self.word('"')
            kind = yield from self.word(">")
            yield from self.parameter(key, (value_end,), string='"true"' in kind, lines=False)
            yield from self.space()
            more = yield from self.starts(parameter)
            if not more:
                yield from self.starts(end)
        self.complete()


def _syntax(template: str) -> ToolSyntax:
    if "｜DSML｜" in template:
        outer = next((tag for tag in _DSML if tag in template), _DSML[0])
        return _dsml_syntax(outer)
    if "```json" in template:
        begin, middle, end, between = f"{_CALL}function{_SEPARATOR}", "\n```json\n", f"\n```{_CALL_END}", "\n"
    else:
        begin, middle, end, between = _CALL, _SEPARATOR, _CALL_END, ""
    return ToolSyntax(
        lambda name, schema: (f"{begin}{name}{middle}", Json(schema), end),
        before=_CALLS,
        between=between,
        after=_CALLS_END,
    )


def _dsml_syntax(outer: str) -> ToolSyntax:
    return tagged_call(
        '<｜DSML｜invoke name="%s">\n',
        ('<｜DSML｜parameter name="%s" string="{string}">', "</｜DSML｜parameter>\n"),
        "</｜DSML｜invoke>",
        before=f"{outer}\n",
        between="\n",
        after=f"\n</{outer[1:]}",
    )


FAMILY = Family("deepseek", DeepSeekReader, _syntax, marks=((_CALLS,), ("｜DSML｜",), ("<｜Assistant｜>",)))
