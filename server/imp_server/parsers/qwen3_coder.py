"""Qwen3-Coder, Qwen3.5, Nemotron 3: `<tool_call><function=name><parameter=key>value</parameter></function>...`.

Values are bare text on lines of their own; the tool's schema says what they are.
"""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import ToolSyntax, tagged_call
from imp_server.parsers.tagged import TaggedReader
from imp_server.parsers.text import Malformed, Steps
from imp_server.parsers.thinking import QWEN_BRIDGE

_CALL, _FUNCTION, _PARAMETER = "<tool_call>", "<function=", "<parameter="
_VALUE_END, _FUNCTION_END, _CALL_END = "</parameter>", "</function>", "</tool_call>"
# Some replies forget to end a value; the end of the whole call cannot be part of one.
_VALUE_ENDS = (_VALUE_END, f"{_FUNCTION_END}\n{_CALL_END}")


class Qwen3CoderReader(TaggedReader):
    """Content, then calls; `<tool_call>` may be missing, and may end the reasoning."""

    implicit_ends = (_CALL,)

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALL, _FUNCTION), self.visible)
            yield from self.attempt(self._call(tag), tag)

    def _call(self, tag: str) -> Steps[None]:
        if tag == _CALL:
            yield from self.expect(_FUNCTION)
        while True:
            yield from self._function()
            yield from self.space()
            if not (yield from self.starts(_FUNCTION)):
                break
            self.record(_FUNCTION)
        yield from self.starts(_CALL_END)
        yield from self.think_again()

    def _function(self) -> Steps[None]:
        name = yield from self.word(">", "\n")
        if not name or "<" in name:
            raise Malformed
        yield from self.space()
        more = yield from self.starts(_PARAMETER)
        if not more:
            yield from self.expect(_FUNCTION_END)
        self.begin(name)
        while more:
            key = yield from self.word(">")
            end = yield from self.parameter(key, _VALUE_ENDS, lines=True)
            if end != _VALUE_END:
                break
            yield from self.space()
            more = yield from self.starts(_PARAMETER)
            if not more:
                yield from self.starts(_FUNCTION_END)
        self.complete()


def _syntax(template: str) -> ToolSyntax:
    return tagged_call(
        f"{_CALL}\n{_FUNCTION}%s>\n",
        (f"{_PARAMETER}%s>\n", f"\n{_VALUE_END}\n"),
        f"{_FUNCTION_END}\n{_CALL_END}",
        between="\n",
    )


FAMILY = Family("qwen3_coder", Qwen3CoderReader, _syntax, marks=((_CALL, _FUNCTION),), bridge=QWEN_BRIDGE)
