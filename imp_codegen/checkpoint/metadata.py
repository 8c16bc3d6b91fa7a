"""Typed access to a checkpoint's keys and values. A missing or wrongly typed one is an error that names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError

Value = int | float | bool | str | bytes | Sequence[int | float | bool | str | bytes] | NDArray[np.generic]
"""Text may be bytes of UTF-8 not yet decoded, so that what nobody asks for costs nothing and breaks nothing."""

LARGEST = 2**63 - 1
_T = TypeVar("_T")


class Metadata:
    """The keys and values of the checkpoint at `path`; every getter raises CheckpointError if it cannot answer.

    Without a default a key is required. A default stands in for a missing key only, never for a wrong value; null is
    as if missing. Every key that a getter was asked for counts as read; `unread` are those that nobody knows of.

    `names`: how this file spells a key, by the key without its first word; several spellings must agree.
    """

    __slots__ = ("_assumed", "_names", "_read", "_values", "path")

    def __init__(
        self, path: Path, values: Mapping[str, Value | None], names: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.path = path
        self._values = values
        self._names = names or {}
        self._assumed: Mapping[str, Value] = {}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._value(self.spelled(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def assume(self, values: Mapping[str, Value]) -> None:
        """What missing keys stand for in files of this kind, in the file's spelling; null stays null."""
        self._assumed = values

    def spelled(self, key: str) -> str:
        """The key as the file has it; its usual spelling if it has none. CheckpointError where two contradict."""
        names = self._names.get(key.partition(".")[2], (key,))
        found = [name for name in names if self._values.get(name) is not None]
        for other in found[1:]:
            if self._values[other] != self._values[found[0]]:
                raise CheckpointError(
                    f"{self.path}: {found[0]} is {_shown(self._values[found[0]])}, but {other} is "
                    f"{_shown(self._values[other])}; they mean the same, remove one"
                )
        if found:
            return found[0]
        objects = {key.rpartition(".")[0] for key in self._values} - {""}
        known = (name for name in names if name in self._values or name in self._assumed)
        return next(known, next((name for name in names if name.rpartition(".")[0] in objects), names[-1]))

    def unread(self) -> list[str]:
        """The keys that no getter was asked for so far, and that are not null."""
        return [key for key, value in self._values.items() if key not in self._read and value is not None]

    def value(self, key: str) -> object:
        """Whatever value a key has; None for what is no text. It does not count as read."""
        value = self._value(self.spelled(key))
        if isinstance(value, np.ndarray):
            return value.tolist()
        return _text(value) if isinstance(value, str | bytes) else value

    def integer(self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = LARGEST) -> int:
        """An integer in minimum..maximum."""
        return self._get(key, default, _integer_reader(minimum, maximum), f"an integer in {minimum}..{maximum}")

    def integer_of_layers(
        self, key: str, layers: int, default: int | None = None, *, minimum: int = 0, maximum: int = LARGEST
    ) -> int:
        """An integer that is stored once, or once for each of `layers` layers and then the same in all."""
        values = self.integers_of_layers(key, layers, default, minimum=minimum, maximum=maximum)
        if (odd := next((layer for layer, value in enumerate(values) if value != values[0]), None)) is not None:
            raise CheckpointError(
                f"{self.path}: {self.spelled(key)} is {values[0]} in layer 0 and {values[odd]} in layer {odd}; "
                "imp compiles models whose layers are all alike"
            )
        return values[0]

    def integers_of_layers(
        self, key: str, layers: int, default: int | None = None, *, minimum: int = 0, maximum: int = LARGEST
    ) -> list[int]:
        """An integer for each of `layers` layers; one that is stored once is that of all."""
        if not isinstance(self._value(self.spelled(key)), np.ndarray | list | tuple):
            return [self.integer(key, default, minimum=minimum, maximum=maximum)] * layers
        values = self.integers(key, minimum=minimum, maximum=maximum)
        if len(values) != layers:
            raise self.wrong(key, f"one integer, or one for each of the {layers} layers")
        return values

    def number(
        self, key: str, default: float | None = None, *, minimum: float = -math.inf, maximum: float = math.inf
    ) -> float:
        """A finite number in minimum..maximum; integers are numbers too."""
        limits = "" if math.isinf(minimum) and math.isinf(maximum) else f" in {minimum}..{maximum}"
        return self._get(key, default, _number_reader(minimum, maximum), f"a finite number{limits}")

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._get(key, default, lambda value: value if isinstance(value, bool) else None, "true or false")

    def string(self, key: str, default: str | None = None) -> str:
        """A text."""
        return self._get(key, default, _text, "a text (UTF-8)")

    def integers(
        self, key: str, default: Sequence[int] | None = None, *, minimum: int = -LARGEST - 1, maximum: int = LARGEST
    ) -> list[int]:
        """A list of integers, each in minimum..maximum."""
        read = _integer_reader(minimum, maximum)
        return self._list(key, default, read, f"an integer in {minimum}..{maximum}", "integers")

    def one_or_more(self, key: str, *, minimum: int = 0, maximum: int = LARGEST) -> list[int]:
        """An integer in minimum..maximum, or a list of such."""
        if isinstance(self._value(self.spelled(key)), int):
            return [self.integer(key, minimum=minimum, maximum=maximum)]
        return self.integers(key, minimum=minimum, maximum=maximum)

    def numbers(self, key: str, default: Sequence[float] | None = None) -> list[float]:
        """A list of finite numbers."""
        return self._list(key, default, _number_reader(-math.inf, math.inf), "a finite number", "finite numbers")

    def booleans(self, key: str) -> list[bool]:
        """A list of true and false."""
        return self._list(key, None, lambda value: value if isinstance(value, bool) else None, "true or false", "both")

    def strings(self, key: str, default: Sequence[str] | None = None) -> list[str]:
        """A list of texts."""
        return self._list(key, default, _text, "a text (UTF-8)", "texts")

    def shown(self, key: str) -> str:
        """The value of a key in a few words, for an error; nothing in it is as the file has it but printable text."""
        return _shown(self._value(self.spelled(key)))

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error for a value that has the right type but does not fit: names file, key, value, what is expected."""
        return CheckpointError(f"{self.path}: {self.spelled(key)} is {self.shown(key)}, expected {expected}")

    def _value(self, spelled: str) -> Value | None:
        return self._values[spelled] if spelled in self._values else self._assumed.get(spelled)

    def _list(
        self, key: str, default: Sequence[_T] | None, read: Callable[[Value], _T | None], one: str, many: str
    ) -> list[_T]:
        fallback: Sequence[object] | None = default
        items = self._get(key, fallback, _items, f"a list of {many}")
        found: list[_T] = []
        for index, item in enumerate(items):
            value = read(cast(Value, item))
            if value is None:
                where = f"{self.spelled(key)}[{index}]"
                raise CheckpointError(f"{self.path}: {where} is {_shown(cast(Value, item))}, expected {one}")
            found.append(value)
        return found

    def _get(self, key: str, default: _T | None, read: Callable[[Value], _T | None], expected: str) -> _T:
        self._read.update(self._names.get(key.partition(".")[2], (key,)))
        spelled = self.spelled(key)
        value = self._value(spelled)
        if value is None:
            if default is None:
                raise CheckpointError(
                    f"{self.path}: has no key {spelled} (expected {expected}); the file is incomplete, download or "
                    "convert it again"
                )
            return default
        found = read(value)
        if found is None:
            raise self.wrong(key, expected)
        return found


def _integer_reader(minimum: int, maximum: int) -> Callable[[Value], int | None]:
    def read(value: Value) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum else None

    return read


def _number_reader(minimum: float, maximum: float) -> Callable[[Value], float | None]:
    def read(value: Value) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            return None
        try:
            number = float(value)
        except OverflowError:  # JSON's integers have any length
            return None
        return number if math.isfinite(number) else None

    return read


def _text(value: Value) -> str | None:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if isinstance(value, str) else None


def _items(value: Value) -> Sequence[object] | None:
    if isinstance(value, np.ndarray):
        return cast(Sequence[object], value.tolist())
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def _shown(value: Value | None) -> str:
    if isinstance(value, np.ndarray | list | tuple):
        head: Sequence[Value] = value[:3].tolist() if isinstance(value, np.ndarray) else value[:3]
        return f"a list of {len(value)} ({', '.join(map(_shown, head))}{', ...' if len(value) > 3 else ''})"
    if isinstance(value, bytes):
        text = _text(value)
        if text is None:
            return repr(value[:60])
        value = text
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return "missing" if value is None else str(value)[:60]
