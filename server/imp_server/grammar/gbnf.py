"""llama.cpp's GBNF as llguidance's Lark.

GBNF is what https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md says, token rules included. Rules that
do not contain themselves become regular expressions, and a grammar of such rules only is exactly the same in Lark. In
others those rules and the literals are Lark's words, which it makes as long as it can: a text in which a word would
have to end before that, because of what follows, cannot be written. Words of single characters would be exact there,
at ten times the cost of a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TIMES = re.compile(r"\{[ \t\r\n]*(\d+)[ \t\r\n]*(?:(,)[ \t\r\n]*(\d+)?)?[ \t\r\n]*\}")
_TOKEN = re.compile(r"(!?)(<\[\d+\]>|<[^<>\r\n]+>)")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_HEX = {"x": 2, "u": 4, "U": 8}
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_DEEPEST = 200


class GbnfError(ValueError):
    """The grammar has an error; the message has the line."""


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Class:
    """One character, as a regular expression."""

    pattern: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, or all but one."""

    index: int
    other: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str


@dataclass(frozen=True, slots=True)
class _Repeat:
    node: _Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Sequences, one of which comes."""

    several: tuple[tuple[_Node, ...], ...]


_Node = _Text | _Class | _Token | _Rule | _Repeat | _Choice


def gbnf_to_lark(source: str, token: Callable[[str], int | None]) -> str:
    """The same grammar in Lark; `token` gives the id of a token by its text. Raises GbnfError."""
    rules = _Reader(source, token).rules()
    if "root" not in rules:
        raise GbnfError("there is no rule root, which a grammar begins with")
    for name, choice in rules.items():
        for used in _uses(choice):
            if isinstance(used, _Rule) and used.name not in rules:
                raise GbnfError(f"the rule {name} uses {used.name}, which is not defined")
    regular = _regular(rules)
    names = {name: f"{'R' if name in regular else 'r'}{i}" for i, name in enumerate(rules)}
    lines = [f"{names[name]}: {_written(choice, names)}" for name, choice in rules.items()]
    return "\n".join([f"start: {names['root']}", *lines]) + "\n"


def _uses(node: _Node) -> Iterator[_Node]:
    yield node
    if isinstance(node, _Repeat):
        yield from _uses(node.node)
    elif isinstance(node, _Choice):
        for sequence in node.several:
            for each in sequence:
                yield from _uses(each)


def _regular(rules: Mapping[str, _Choice]) -> set[str]:
    """The rules that contain neither themselves nor tokens, which are no text, however deep inside."""
    waits: dict[str, int] = {}
    users: dict[str, list[str]] = {}
    for name, choice in rules.items():
        inside = {used for used in _uses(choice) if isinstance(used, _Rule | _Token)}
        waits[name] = len(inside)
        for used in inside:
            if isinstance(used, _Rule):
                users.setdefault(used.name, []).append(name)
    found: set[str] = set()
    ready = [name for name, count in waits.items() if count == 0]
    while ready:
        found.add(done := ready.pop())
        for name in users.get(done, ()):
            waits[name] -= 1
            if waits[name] == 0:
                ready.append(name)
    return found


def _written(node: _Node, names: Mapping[str, str]) -> str:
    match node:
        case _Text():
            return json.dumps(node.text, ensure_ascii=False)
        case _Class():
            return f"/{node.pattern}/"
        case _Token():
            return f"<[{'^' if node.other else ''}{node.index}]>"
        case _Rule():
            return names[node.name]
        case _Repeat():
            most = "" if node.most is None else node.most
            return f"({_written(node.node, names)}){{{node.least},{most}}}"
        case _Choice():
            several = (" ".join(_written(each, names) for each in part) or '""' for part in node.several)
            return "(" + " | ".join(several) + ")"


@dataclass(slots=True)
class _Reader:
    """Reads a grammar from its beginning to its end."""

    source: str
    token: Callable[[str], int | None]
    place: int = 0
    depth: int = 0

    def rules(self) -> dict[str, _Choice]:
        found: dict[str, _Choice] = {}
        self._skip(_LINES)
        while self.place < len(self.source):
            name = self._take(_NAME)
            if name is None:
                raise self._wrong("expected the name of a rule")
            self._skip(_SPACE)
            if not self.source.startswith("::=", self.place):
                raise self._wrong(f"expected ::= behind {name}")
            self.place += 3
            self._skip(_LINES)
            found[name] = self._choice(_SPACE)
            if self.place < len(self.source) and self.source[self.place] not in "\r\n":
                raise self._wrong(f"cannot read {self.source[self.place]!r} in the rule {name}")
            self._skip(_LINES)
        return found

    def _choice(self, space: re.Pattern[str]) -> _Choice:
        several = [self._sequence(space)]
        while self.source.startswith("|", self.place):
            self.place += 1
            self._skip(_LINES)
            several.append(self._sequence(space))
        return _Choice(tuple(several))

    def _sequence(self, space: re.Pattern[str]) -> tuple[_Node, ...]:
        found: list[_Node] = []
        while (node := self._element()) is not None:
            self._skip(space)
            while (times := self._times()) is not None:
                node = _Repeat(node, *times)
                self._skip(space)
            found.append(node)
        return tuple(found)

    def _element(self) -> _Node | None:
        first = self.source[self.place : self.place + 1]
        if first == '"':
            return _Text("".join(self._letters('"')))
        if first == "[":
            return self._class()
        if first == ".":
            self.place += 1
            return _Class("(?s:.)")
        if first == "(":
            return self._group()
        if found := _TOKEN.match(self.source, self.place):
            return self._token(found)
        name = self._take(_NAME)
        return None if name is None else _Rule(name)

    def _group(self) -> _Choice:
        self.place += 1
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._wrong("brackets are too deep in each other")
        self._skip(_LINES)
        found = self._choice(_LINES)
        if not self.source.startswith(")", self.place):
            raise self._wrong("expected )")
        self.place += 1
        self.depth -= 1
        return found

    def _token(self, found: re.Match[str]) -> _Token:
        text = found[2]
        index = int(text[2:-2]) if text.startswith("<[") else self.token(text)
        if index is None:
            raise self._wrong(f"{text} is no token of this model")
        self.place = found.end()
        return _Token(index, bool(found[1]))

    def _class(self) -> _Class:
        opposite = self.source.startswith("[^", self.place)
        self.place += opposite
        letters = list(self._letters("]", ranges=True))
        parts: list[str] = []
        while letters:
            first = letters.pop(0)
            parts.append(f"\\x{{{ord(first):x}}}")
            if len(letters) > 1 and letters[0] == "":  # a dash between two letters
                last = letters[1]
                if last < first:
                    raise self._wrong(f"the range {first!r} to {last!r} goes backwards")
                parts.append(f"-\\x{{{ord(last):x}}}")
                del letters[:2]
        if not parts:
            raise self._wrong("a class of characters is empty")
        return _Class(f"[{'^' if opposite else ''}{''.join(parts)}]")

    def _letters(self, end: str, *, ranges: bool = False) -> Iterator[str]:
        """The characters up to `end`; with `ranges`, a dash that is not the last is an empty text."""
        self.place += 1
        begun = False
        while not self.source.startswith(end, self.place):
            letter = self.source[self.place : self.place + 1]
            if letter == "":
                raise self._wrong(f"expected {end} before the end")
            if letter == "\\":
                yield self._escape()
            elif letter == "-" and ranges and begun and not self.source.startswith(end, self.place + 1):
                self.place += 1
                yield ""
                begun = False
                continue
            else:
                self.place += 1
                yield letter
            begun = True
        self.place += 1

    def _escape(self) -> str:
        kind = self.source[self.place + 1 : self.place + 2]
        if kind in _ESCAPES:
            self.place += 2
            return _ESCAPES[kind]
        digits = self.source[self.place + 2 : self.place + 2 + _HEX.get(kind, 0)]
        if not digits or not re.fullmatch(f"[0-9A-Fa-f]{{{_HEX[kind]}}}", digits):
            raise self._wrong(f"\\{kind}{digits} is no escape")
        number = int(digits, 16)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise self._wrong(f"\\{kind}{digits} is no character")
        self.place += 2 + len(digits)
        return chr(number)

    def _times(self) -> tuple[int, int | None] | None:
        first = self.source[self.place : self.place + 1]
        if first in _REPEATS:
            self.place += 1
            return _REPEATS[first]
        if first != "{":
            return None
        found = _TIMES.match(self.source, self.place)
        if found is None:
            raise self._wrong("expected {times}, {least,} or {least,most}")
        least = int(found[1])
        most = least if found[2] is None else None if found[3] is None else int(found[3])
        if most is not None and most < least:
            raise self._wrong(f"{found[0]} is at least {least} and at most {most}")
        self.place = found.end()
        return least, most

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.source, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found[0]

    def _skip(self, space: re.Pattern[str]) -> None:
        self._take(space)

    def _wrong(self, what: str) -> GbnfError:
        return GbnfError(f"line {self.source.count(chr(10), 0, self.place) + 1}: {what}")
