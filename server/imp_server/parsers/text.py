"""Text that is read while it still comes: a generator asks for what it needs and sleeps while it is not there yet.

Every decision depends on the text alone, never on where it was cut into pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

SPACE = " \t\r\n"
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MARK = re.compile(r"[\"'\\(){}\[\]]")
_DEPTH = {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}
_JSON_LITERAL = re.compile(r"[^\s,:{}\[\]\"]*")


class EndOfText(Exception):  # noqa: N818  it is no error
    """The reply has ended where more was expected."""


class Malformed(Exception):  # noqa: N818  caught by the reader; what was read becomes visible text
    """What looked like a tool call is none."""


class Trim:
    """Lets text through without the whitespace at its end and, when `leading`, without that at its beginning."""

    def __init__(self, *, leading: bool) -> None:
        self.leading = leading
        self.held = ""

    def push(self, text: str) -> str:
        """The text that is certain not to be at the end."""
        text = self.held + text
        if self.leading:
            text = text.lstrip(SPACE)
        body = text.rstrip(SPACE)
        self.held = text[len(body) :]
        self.leading = self.leading and not body
        return body


class TextReader:
    """The text that has come and is not consumed yet, and steps that consume it."""

    quotes = '"'  # what a string may stand in

    def __init__(self) -> None:
        self._text = ""
        self._place = 0  # characters consumed so far
        self._ended = False
        self._cut = False  # the end came before the reply was complete
        self._record: list[str] | None = None  # what was consumed since the beginning of a possible call

    def more(self) -> Steps[None]:
        """Wait for more text."""
        if self._ended:
            raise EndOfText
        yield

    def peek(self) -> Steps[str]:
        """The next character, left where it is."""
        while not self._text:
            yield from self.more()
        return self._text[0]

    def space(self) -> Steps[None]:
        """Consume whitespace."""
        while True:
            self._consume(len(self._text) - len(self._text.lstrip(SPACE)))
            if self._text:
                return
            yield from self.more()

    def starts(self, tag: str) -> Steps[bool]:
        """Whether `tag` comes next; if so it is consumed."""
        while len(self._text) < len(tag) and tag.startswith(self._text):
            if self._ended and not self._cut:
                return False
            yield from self.more()
        if found := self._text.startswith(tag):
            self._consume(len(tag))
        return found

    def expect(self, tag: str) -> Steps[None]:
        """Consume whitespace and `tag`. Raises Malformed when something else comes."""
        yield from self.space()
        if not (yield from self.starts(tag)):
            raise Malformed

    def until(self, tags: tuple[str, ...], emit: Callable[[str], object]) -> Steps[str]:
        """Pass the text before the first of `tags` to `emit`, consume that tag and return it."""
        found, prefixes, starts = _tags(tags)
        while True:
            border = len(self._text)
            first = starts.search(self._text)
            if first is not None:
                if hit := found.search(self._text, first.start()):
                    emit(self._consume(hit.start()))
                    return self._consume(len(hit[0]))
                if not self._ended or self._cut:
                    for start in starts.finditer(self._text, first.start()):
                        if self._text[start.start() :] in prefixes:
                            border = start.start()
                            break
            emit(self._consume(border))
            yield from self.more()

    def word(self, *ends: str) -> Steps[str]:
        """The text before one of `ends`, stripped; the end is consumed."""
        parts: list[str] = []
        yield from self.until(ends, parts.append)
        return "".join(parts).strip()

    def match(self, pattern: re.Pattern[str]) -> Steps[str]:
        """What `pattern` matches, once text follows it or the reply ends. Raises Malformed when it matches nothing."""
        while True:
            hit = pattern.match(self._text)
            if hit is None and self._text:
                raise Malformed
            if hit is not None and (hit.end() < len(self._text) or (self._ended and not self._cut)):
                return self._consume(hit.end())
            yield from self.more()

    def json_string(self) -> Steps[str]:
        """A JSON string, decoded. Raises Malformed when something else comes."""
        if (yield from self.peek()) != '"':
            raise Malformed
        while (hit := _JSON_STRING.match(self._text)) is None:
            yield from self.more()
        try:
            return str(json.loads(self._consume(hit.end()), strict=False))
        except ValueError:
            raise Malformed from None

    def json_value(self, emit: Callable[[str], object]) -> Steps[None]:
        """Pass one JSON value to `emit` as it is written; whether it is valid inside is not checked."""
        if (yield from self.peek()) not in '{["':
            emit((yield from self.match(_JSON_LITERAL)))
            return
        yield from self.balanced(emit)

    def balanced(self, emit: Callable[[str], object]) -> Steps[None]:
        """Pass text to `emit` up to the bracket or quote that closes the one it begins with."""
        depth, quote, escaped = 0, "", -1
        while True:
            end = None
            for mark in _MARK.finditer(self._text):
                place, character = mark.start(), mark[0]
                if place == escaped:
                    continue
                if quote:
                    if character == "\\":
                        escaped = place + 1
                    quote = "" if character == quote else quote
                elif character in self.quotes:
                    quote = character
                else:
                    depth += _DEPTH.get(character, 0)
                if depth == 0 and not quote:
                    end = mark.end()
                    break
            escaped -= len(self._text)
            emit(self._consume(len(self._text) if end is None else end))
            if end is not None:
                return
            yield from self.more()

    def _consume(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        self._place += len(taken)
        if self._record is not None and taken:
            self._record.append(taken)
        return taken


@lru_cache(maxsize=256)
def _tags(tags: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str], re.Pattern[str]]:
    """A pattern for the tags, their proper beginnings, and a pattern for their first characters."""
    found = re.compile("|".join(map(re.escape, sorted(tags, key=len, reverse=True))) or "(?!)")
    prefixes = frozenset(tag[:length] for tag in tags for length in range(1, len(tag)))
    return found, prefixes, re.compile("|".join({re.escape(tag[0]) for tag in tags}) or "(?!)")
