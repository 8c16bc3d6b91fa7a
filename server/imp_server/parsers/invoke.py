"""DeepSeek V3.2 and V4 (DSML), MiniMax M2, MiniCPM5: a tag around each call and each parameter, with a name in it.

`<invoke name="f"><parameter name="key">value</parameter></invoke>`. The tags have other names or a prefix, and all but
MiniCPM put a block around the calls.
"""

# ruff: noqa: RUF001  DeepSeek's tokens are written with these bars

from __future__ import annotations

from dataclasses import dataclass

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import ToolSyntax, tagged_call
from imp_server.parsers.tagged import TaggedReader
from imp_server.parsers.text import Steps

_DSML = "｜DSML｜"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


@dataclass(frozen=True, slots=True)
class _Tags:
    """`call` and `parameter` go up to the name; `end` is that of the block."""

    call: str
    call_end: str
    parameter: str
    parameter_end: str
    end: str = ""


def _block(name: str, token: str = "") -> tuple[str, _Tags]:
    parameter = f'<{token}parameter name="', f"</{token}parameter>"
    return f"<{name}>", _Tags(f'<{token}invoke name="', f"</{token}invoke>", *parameter, f"</{name}>")


_BARE = _Tags('<function name="', "</function>", '<param name="', "</param>")
# DeepSeek drops the DSML token now and then, so each of its tags is known with and without it.
_TAGS = dict(
    (
        *(_block(f"{token}{name}", token) for token in (_DSML, "") for name in ("function_calls", "tool_calls")),
        _block("minimax:tool_call"),
        (_BARE.call, _BARE),
    )
)


class InvokeReader(TaggedReader):
    """Content, then calls."""

    def calls(self) -> Steps[None]:
        """See Reader."""
        while True:
            tag = yield from self.until(tuple(_TAGS), self.visible)
            yield from self.attempt(self._calls(_TAGS[tag], tag), tag)

    def _calls(self, tags: _Tags, begun: str) -> Steps[None]:
        if begun != tags.call:
            yield from self.expect(tags.call)
        while True:
            yield from self._invoke(tags)
            yield from self.space()
            if not (yield from self.starts(tags.call)):
                break
            self.record(tags.call)
        yield from self.starts(tags.end)
        yield from self.think_again()

    def _invoke(self, tags: _Tags) -> Steps[None]:
        name = yield from self.word('"')
        yield from self.expect(">")
        yield from self.space()
        more = yield from self.starts(tags.parameter)
        if not more:
            yield from self.expect(tags.call_end)
        self.begin(name)
        while more:
            key = yield from self.word('"')
            kind = yield from self.word(">")
            quoted = yield from self.starts(_CDATA)
            end = f"{_CDATA_END}{tags.parameter_end}" if quoted else tags.parameter_end
            string = '"true"' in kind if "string=" in kind else None
            yield from self.parameter(key, (end,), string=string, lines=False)
            yield from self.space()
            more = yield from self.starts(tags.parameter)
            if not more:
                yield from self.starts(tags.call_end)
        self.complete()


def _syntax(written: str) -> ToolSyntax:
    block, tags = next(((tag, tags) for tag, tags in _TAGS.items() if tag in written), ("", _BARE))
    if tags is _BARE:
        return tagged_call(
            f'{tags.call}%s">', (f'{tags.parameter}%s">', tags.parameter_end), tags.call_end, between="\n"
        )
    kind = ' string="{string}"' if _DSML in block else ""
    return tagged_call(
        f'{tags.call}%s">\n',
        (f'{tags.parameter}%s"{kind}>', f"{tags.parameter_end}\n"),
        tags.call_end,
        before=f"{block}\n",
        between="\n",
        after=f"\n{tags.end}",
    )


FAMILY = Family(
    "invoke", InvokeReader, _syntax, marks=((_DSML,), ("<minimax:tool_call>",), (_BARE.call, _BARE.parameter))
)
