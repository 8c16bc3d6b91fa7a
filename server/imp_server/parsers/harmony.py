"""gpt-oss: Harmony messages, each with a channel: `<|channel|>analysis<|message|>...<|end|><|start|>assistant...`.

https://cookbook.openai.com/articles/openai-harmony: `analysis` is reasoning, `final` and `commentary` are content, and
a message `to=functions.name` is a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from imp_server.parsers.family import Family
from imp_server.parsers.grammar import Json, OneOf, ToolSyntax, Until
from imp_server.parsers.reader import Reader
from imp_server.parsers.text import Steps, Trim
from imp_server.parsers.thinking import Thinking

_START, _CHANNEL, _MESSAGE, _END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
_BODY_ENDS = (_END, "<|call|>", "<|return|>", _START)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")


class HarmonyReader(Reader):
    """A series of messages; the prompt may have begun the first."""

    def reply(self, prompt_tail: str) -> Steps[None]:
        """See Reader."""
        header, began, _ = prompt_tail[prompt_tail.rfind(_START) + len(_START) :].partition(_MESSAGE)
        if _START not in prompt_tail:
            header, began = "", ""
        self._written: set[str] = set()
        self.record()
        while True:
            if not began:
                parts = [header]
                yield from self.until((_MESSAGE,), parts.append)
                header = "".join(parts)
            self._record = None
            tag = yield from self._body(header)
            header, began = "", ""
            if tag != _START:
                tag = yield from self.until((_START, _CHANNEL), self.visible)
                header = tag.removeprefix(_START)

    def _body(self, header: str) -> Steps[str]:
        recipient = _RECIPIENT.search(header)
        channel = _CHANNEL_NAME.search(header)
        if recipient and self.schemas:
            return (yield from self._call(recipient[1].removeprefix("functions.")))
        if channel and channel[1] == "analysis":
            return (yield from self.until(_BODY_ENDS, self._section("analysis", self.reasoning)))
        return (yield from self.until(_BODY_ENDS, self._section("final", self.visible)))

    def _call(self, name: str) -> Steps[str]:
        self.open(name)
        trim = Trim(leading=True)
        tag = yield from self.until(_BODY_ENDS, lambda text: self.arguments(trim.push(text)))
        self.close()
        return tag

    def _section(self, name: str, emit: Callable[[str], None]) -> Callable[[str], None]:
        """`emit`, with an empty line before the text of a further message of the same kind."""
        before = "\n\n" if name in self._written else ""

        def put(text: str) -> None:
            nonlocal before
            if text:
                self._written.add(name)
                emit(before + text)
                before = ""

        return put


def _syntax(written: str) -> ToolSyntax:
    analysis = (f"{_CHANNEL}analysis{_MESSAGE}", Until(_END), f"{_START}assistant")
    return ToolSyntax(
        lambda name, schema: (f"commentary to=functions.{name} <|constrain|>json{_MESSAGE}", Json(schema)),
        lead=(OneOf((analysis, ())),),
        before=_CHANNEL,
        between=None,
    )


FAMILY = Family(
    "harmony",
    HarmonyReader,
    _syntax,
    marks=((_CHANNEL, _MESSAGE),),
    thinking=Thinking(f"{_CHANNEL}analysis{_MESSAGE}", _END),
    answer=f"{_CHANNEL}final{_MESSAGE}",
)
