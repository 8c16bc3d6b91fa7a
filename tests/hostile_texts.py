"""Texts that would do something if anything obeyed them, and the places where a GGUF file holds texts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

HOSTILE = (
    "x\n#include <cstdio>\n__attribute__((constructor)) static void f() { std::puts(\"owned\"); }\n//",
    "*/ int owned(); /*",
    "ends in a backslash\\",
    "trigraphs ??/",
    "??/\nint owned;",
    "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029int owned;",
    "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f",
    "\u202eowned\u2066",
    "<img src=x onerror=alert(1)>&quot;",
    "$(touch owned) `touch owned` '; touch owned; \" | & $HOME",
    "../../owned",
    "{{ 7 * 7 }}{% raw %}{# #}%n%s{0}",
    "a\0b",
)  # fmt: skip
EVERYTHING = "".join(HOSTILE)

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A text of a GGUF file: what it is, and where its length (u64) and then its bytes lie."""

    what: str
    at: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Every text of a sound GGUF file (ggml/docs/gguf.md) of the usual alignment."""

    raw: bytes
    places: tuple[Place, ...]
    head_bytes: int

    @staticmethod
    def of(raw: bytes) -> Texts:
        walk = _Walk(raw)
        places = tuple(walk.places())
        return Texts(raw, places, walk.at)

    def text(self, place: Place) -> str:
        return self.raw[place.at + 8 : place.at + 8 + place.nbytes].decode()

    def with_texts(self, texts: dict[Place, str]) -> bytes:
        """The file with other texts at some places; nothing else differs."""
        parts, at = [], 0
        for place, text in sorted(texts.items(), key=lambda item: item[0].at):
            new = text.encode()
            parts += [self.raw[at : place.at], struct.pack("<Q", len(new)), new]
            at = place.at + 8 + place.nbytes
        head = b"".join([*parts, self.raw[at : self.head_bytes]])
        data = self.raw[self.head_bytes + -self.head_bytes % _ALIGNMENT :]
        return head + bytes(-len(head) % _ALIGNMENT) + data


class _Walk:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 8

    def places(self) -> Iterator[Place]:
        tensors, keys = self._number("<Q"), self._number("<Q")
        for _ in range(keys):
            name = self._place("name of a key")
            yield name
            key = self.raw[name.at + 8 : name.at + 8 + name.nbytes].decode()
            kind = self._number("<I")
            if kind == _ARRAY:
                kind, count = self._number("<I"), self._number("<Q")
            else:
                count = 1
            for index in range(count):
                if kind == _STRING:
                    yield self._place(key if count == 1 else f"{key}[{index}]")
                else:
                    self.at += _SCALAR_BYTES[kind]
        for _ in range(tensors):
            yield self._place("name of a tensor")
            dimensions = self._number("<I")
            self.at += 8 * dimensions + 4 + 8

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _place(self, what: str) -> Place:
        at = self.at
        nbytes = self._number("<Q")
        self.at += nbytes
        return Place(what, at, nbytes)
