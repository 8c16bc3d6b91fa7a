"""GLM 4, Laguna, Ling 3, Spark: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.

Values are bare text; the tool's schema says what they are. Some templates begin a line behind each tag.
"""

from __future__ import annotations

import re

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import ToolSyntax, between, tagged_call
from imp_server.parsers.tagged import TaggedReader
from imp_server.parsers.text import Steps

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[\w./-]+")
# Behind the name, a key, a value that is not the last, and the last.
_GAPS = re.compile(
    rf"{_CALL}[\w./-]+(\s*){_KEY}\w+{_KEY_END}(\s*){_VALUE}[^<]*{_VALUE_END}(\s*){_KEY}.*?{_VALUE_END}(\s*){_CALL_END}",
    re.DOTALL,
)


class GlmReader(TaggedReader):
    """Content, then calls; one may end the reasoning."""

    implicit_ends = (_CALL,)

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until((_CALL,), self.visible)
            yield from self.attempt(self._call(), tag)

    def _call(self) -> Steps[None]:
        yield from self.space()
        name = yield from self.match(_NAME)
        yield from self.space()
        more = yield from self.starts(_KEY)
        if not more:
            yield from self.expect(_CALL_END)
        self.begin(name)
        while more:
            key = yield from self.word(_KEY_END)
            yield from self.word(_VALUE)
            yield from self.parameter(key, (_VALUE_END,), lines=False)
            yield from self.space()
            more = yield from self.starts(_KEY)
            if not more:
                yield from self.starts(_CALL_END)
        self.complete()
        yield from self.think_again()


def _syntax(written: str) -> ToolSyntax:
    found = _GAPS.search(written)
    name, key, value, last = found.groups() if found else ("\n", "\n", "\n", "\n")
    return tagged_call(
        f"{_CALL}%s{name}",
        (f"{_KEY}%s{_KEY_END}{key}{_VALUE}", f"{_VALUE_END}{value}"),
        _CALL_END if value else f"{last}{_CALL_END}",
        between=between(written, _CALL_END, _CALL, "\n"),
    )


FAMILY = Family("glm", GlmReader, _syntax, marks=((_CALL, _KEY),))
