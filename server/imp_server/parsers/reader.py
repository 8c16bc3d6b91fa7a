"""From the text of a reply to its pieces: what all families' parsers share."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from imp_server.generation.events import Piece, Reasoning, Text, ToolArguments, ToolClose, ToolOpen
from imp_server.parsers.text import SPACE, EndOfText, Malformed, Steps, TextReader, Trim
from imp_server.parsers.thinking import Thinking, left_open

Tools = Sequence[Mapping[str, object]]

_ID = re.compile(r"[\w-]{1,64}")
_WITH_TEXT = (Text, Reasoning, ToolArguments)


def schemas(tools: Tools | None) -> dict[str, Mapping[str, object]]:
    """Name and parameter schema of each tool in OpenAI's shape."""
    named: dict[str, Mapping[str, object]] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and (name := function.get("name")):
            schema = function.get("parameters")
            named[str(name)] = schema if isinstance(schema, Mapping) else {}
    return named


@dataclass(slots=True)
class _JsonCall:
    """The fields of a call that is written as a JSON object; `open` once its arguments are being passed on."""

    name: str | None = None
    id: str | None = None
    arguments: str | None = None
    open: bool = False


class Reader(TextReader):
    """Base of the families' parsers: a ReplyParser with `thinking` first and then what `calls` reads.

    Without tools all that is not reasoning is content. The end of the prompt says whether it left the reasoning open.
    """

    implicit_ends: tuple[str, ...] = ()  # tags that end the reasoning without being consumed
    any_name = True  # whether a call may name a function that is not among the tools

    def __init__(self, tools: Tools | None, thinking: Thinking, prompt_tail: str) -> None:
        self.schemas = schemas(tools)
        super().__init__()
        self._thinking = thinking
        self._pieces: list[Piece] = []
        self._index = -1
        self._ids: set[str] = set()
        self._open = False
        self._bare = False  # the open call has no arguments yet
        self._visible = Trim(leading=False)
        self._steps = self._guarded(prompt_tail)
        next(self._steps)

    # The ReplyParser protocol:

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`."""
        self._text += text
        next(self._steps)
        return self._taken()

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """What was held back, when the reply ends; where it was cut, no markup that was not complete."""
        self._ended, self._cut = True, cut
        for _ in self._steps:
            pass
        if not cut:
            rest = self._consume(len(self._text)) if self._record is None else ""
            if self._open:
                self.arguments(rest)
            else:
                self.give_back()
                self.visible(rest)
        if self._open:
            self.close()
        if self._record is None and not self._visible.leading:
            held, self._visible.held = self._visible.held, ""
            self._say(held)
        return self._taken()

    # What families override:

    def calls(self) -> Steps[None]:
        """Read the content and the calls, without end. A model without a format for calls has content only."""
        yield from self.until((), self.visible)

    def reply(self, prompt_tail: str) -> Steps[None]:
        """Read everything, without end."""
        if left_open(prompt_tail, self._thinking):
            yield from self.starts(self._thinking.opening)
            yield from self._think()
        else:
            yield from self.think_again()
        yield from self.calls() if self.schemas else self.until((), self.visible)

    # What families read with, besides what TextReader has:

    def json_call(self) -> Steps[None]:
        """A call that is written as `{"name": ..., "arguments": {...}}`. Raises Malformed when it is none."""
        if self._record is None:
            self.record()
        call = _JsonCall()
        yield from self._json_fields(call)
        if call.open:
            self.close()
            return
        if not call.name or not self.knows(call.name):
            raise Malformed
        arguments = call.arguments or "null"
        try:
            value = json.loads(arguments, strict=False)
            if isinstance(value, str):
                value = json.loads(arguments := value, strict=False)
        except ValueError:
            raise Malformed from None
        if value is not None and not isinstance(value, dict):
            raise Malformed
        self.call(call.name, "{}" if value is None else arguments, call.id)

    def json_calls(self) -> Steps[None]:
        """A JSON array of calls."""
        yield from self.expect("[")
        yield from self.space()
        while not (yield from self.starts("]")):
            yield from self.json_call()
            yield from self.space()
            yield from self.starts(",")
            yield from self.space()

    def _json_fields(self, call: _JsonCall) -> Steps[None]:
        yield from self.expect("{")
        yield from self.space()
        while not (yield from self.starts("}")):
            key = yield from self.json_string()
            yield from self.expect(":")
            yield from self.space()
            first = yield from self.peek()
            if key == "function" and first == "{":
                yield from self._json_fields(call)
            elif key in ("name", "function") and first == '"':
                call.name = yield from self.json_string()
                if not self.knows(call.name):
                    raise Malformed
            elif key in ("arguments", "parameters"):
                if call.name and first == "{" and not call.open:
                    self.open(call.name, call.id)
                    call.open = True
                    yield from self.json_value(self.arguments)
                else:
                    parts: list[str] = []
                    yield from self.json_value(parts.append)
                    call.arguments = "".join(parts)
            elif key == "id" and first == '"':
                call.id = yield from self.json_string()
            elif self.any_name or key == "type":
                yield from self.json_value(lambda _: None)
            else:
                raise Malformed
            yield from self.space()
            if not (yield from self.starts(",")) and (yield from self.peek()) != "}":
                raise Malformed
            yield from self.space()

    # What families tell:

    def visible(self, text: str) -> None:
        """Content. Whitespace beside reasoning and calls is left out."""
        if self.schemas or self._visible.leading or self._visible.held:
            text = self._visible.push(text)
        self._say(text)

    def reasoning(self, text: str) -> None:
        """Thoughts."""
        self._emit(Reasoning(text))

    def knows(self, name: str) -> bool:
        """Whether a call may have this name."""
        return self.any_name or name in self.schemas

    def attempt(self, call: Steps[None], begun: str = "") -> Steps[None]:
        """Read `call`, of which `begun` is already consumed. If it turns out to be none, its text becomes visible."""
        self.record(begun)
        try:
            yield from call
        except Malformed:
            if self._open:
                self.close()
            self.give_back()
        self._record = None

    def record(self, begun: str = "") -> None:
        """Remember from here on what is consumed, until a call is opened."""
        self._record = [begun]

    def give_back(self) -> None:
        """Show what was remembered."""
        record, self._record = self._record, None
        if record is not None:
            self.visible("".join(record) + (self._consume(len(self._text)) if self._ended else ""))

    def open(self, name: str, given_id: str | None = None) -> None:
        """A call begins. The model's own id for it is kept if it is fit for one and new in this reply."""
        self._index += 1
        self._open = self._bare = True
        self._record = None
        self._visible = Trim(leading=True)
        fresh = given_id if given_id and _ID.fullmatch(given_id) and given_id not in self._ids else self.new_id()
        self._ids.add(fresh)
        self._emit(ToolOpen(self._index, fresh, name))

    def arguments(self, text: str) -> None:
        """A piece of the open call's arguments."""
        self._bare = self._bare and not text
        self._emit(ToolArguments(self._index, text))

    def close(self) -> None:
        """The open call is complete; one without arguments has an empty object."""
        if self._bare:
            self.arguments("{}")
        self._open = False
        self._emit(ToolClose(self._index))

    def call(self, name: str, arguments: str, given_id: str | None = None) -> None:
        """A whole call."""
        self.open(name, given_id)
        self.arguments(arguments)
        self.close()

    def new_id(self) -> str:
        """An id for a call."""
        return f"call_{secrets.token_hex(12)}"

    def think_again(self) -> Steps[None]:
        """Read reasoning if it begins here, behind whitespace at most."""
        while not (body := self._text.lstrip(SPACE)) or (
            len(body) < len(self._thinking.opening) and self._thinking.opening.startswith(body)
        ):
            yield from self.more()
        if body.startswith(self._thinking.opening):
            self._consume(len(self._text) - len(body) + len(self._thinking.opening))
            yield from self._think()

    # Inside:

    def _guarded(self, prompt_tail: str) -> Steps[None]:
        yield
        with contextlib.suppress(EndOfText):
            yield from self.reply(prompt_tail)

    def _think(self) -> Steps[None]:
        trim = Trim(leading=True)
        ends = (self._thinking.closing, *(self.implicit_ends if self.schemas else ()))
        tag = yield from self.until(ends, lambda text: self.reasoning(trim.push(text)))
        if tag != self._thinking.closing:
            self._text = tag + self._text
            self._place -= len(tag)
        self._visible = Trim(leading=True)

    def _say(self, text: str) -> None:
        """Content that has just been consumed, up to what is held back of it."""
        end = self._place - len(self._visible.held)
        self._emit(Text(text, places=((end - len(text), end),)))

    def _emit(self, piece: Piece) -> None:
        if isinstance(piece, _WITH_TEXT):
            if not piece.text:
                return
            last = self._pieces[-1] if self._pieces else None
            if isinstance(last, _WITH_TEXT) and type(last) is type(piece):
                joined = replace(piece, text=last.text + piece.text)
                if isinstance(last, Text) and isinstance(piece, Text):
                    joined = Text(joined.text, places=(*last.places, *piece.places))
                self._pieces[-1] = joined
                return
        self._pieces.append(piece)

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces
