"""Qwen3-Coder, Qwen3.5, Nemotron 3, Seed: `<tool_call><function=name><parameter=key>value</parameter></function>...`.

Values are bare text, all but Seed's on lines of their own; the tool's schema says what they are.
"""

from __future__ import annotations

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import ToolSyntax, between, tagged_call
from imp_server.parsers.tagged import TaggedReader
from imp_server.parsers.text import Malformed, Steps
from imp_server.parsers.thinking import QWEN_BRIDGE

_ENDS = {"<tool_call>": "</tool_call>", "<seed:tool_call>": "</seed:tool_call>"}
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _VALUE_END = "<parameter=", "</parameter>"
# Some replies forget to end a value; the end of the whole call cannot be part of one.
_VALUE_ENDS = (_VALUE_END, *(f"{_FUNCTION_END}\n{end}" for end in _ENDS.values()))


class Qwen3CoderReader(TaggedReader):
    """Content, then calls; `<tool_call>` may be missing, and may end the reasoning."""

    implicit_ends = tuple(_ENDS)

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((*_ENDS, _FUNCTION), self.visible)
            yield from self.attempt(self._call(tag), tag)

    def _call(self, tag: str) -> Steps[None]:
        if tag in _ENDS:
            yield from self.expect(_FUNCTION)
        while True:
            yield from self._function()
            yield from self.space()
            if not (yield from self.starts(_FUNCTION)):
                break
            self.record(_FUNCTION)
        for end in _ENDS.values():
            if (yield from self.starts(end)):
                break
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


def _syntax(written: str) -> ToolSyntax:
    tag = next((tag for tag in reversed(_ENDS) if tag in written), "<tool_call>")
    line = "" if tag == "<seed:tool_call>" else "\n"
    return tagged_call(
        f"{tag}\n{_FUNCTION}%s>\n",
        (f"{_PARAMETER}%s>{line}", f"{line}{_VALUE_END}\n"),
        f"{_FUNCTION_END}\n{_ENDS[tag]}",
        between=between(written, _ENDS[tag], tag, "\n"),
    )


FAMILY = Family(
    "qwen3_coder",
    Qwen3CoderReader,
    _syntax,
    marks=(("<tool_call>", _FUNCTION), ("<seed:tool_call>", _FUNCTION)),
    bridge=QWEN_BRIDGE,
)
