"""Which JSON schemas no value fits both of, as far as types, constants, ranges and single properties show it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from imp_server.grammar.schema_negation import TYPES, finite, resolved

_FORMATS = frozenset(("date", "date-time", "time", "email", "ipv4", "ipv6", "uuid"))  # no text has two of these forms
_MOST_COMPARISONS = 200_000
_MOST_PLACES = 16


class Comparison:
    """Tells alternatives of one schema apart; `root` is where references are looked up.

    It gives up after many comparisons, which schemas of strangers may ask for.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._left = _MOST_COMPARISONS

    def disjoint(self, one: object, other: object) -> bool:
        """Whether it is sure that no value fits both."""
        one, other = resolved(one, self._root), resolved(other, self._root)
        if one is False or other is False:
            return True
        self._left -= 1
        if not isinstance(one, Mapping) or not isinstance(other, Mapping) or self._left < 0:
            return False
        for left, right in ((one, other), (other, one)):
            for word, holds in (("allOf", any), ("anyOf", all), ("oneOf", all)):
                parts = left.get(word)
                if isinstance(parts, list) and holds(self.disjoint(each, right) for each in parts):
                    return True
        few, others = finite(one), finite(other)
        if few is not None and others is not None:
            self._left -= (len(few) + len(others)) // 10
            return not {_key(each) for each in few} & {_key(each) for each in others}
        # Each type that a value of both could have must keep them apart by itself.
        return all(self._apart(kind, one, other) for kind in _types(one) & _types(other))

    def _apart(self, kind: str, one: Mapping[str, object], other: Mapping[str, object]) -> bool:
        """Whether no value of a type fits both."""
        if kind == "number":
            return _ranges_apart(one, other, "minimum", "maximum")
        if kind == "string":
            forms = {one.get("format"), other.get("format")}
            return (len(forms) == 2 and forms <= _FORMATS) or _ranges_apart(one, other, "minLength", "maxLength")
        if kind == "array":
            if _ranges_apart(one, other, "minItems", "maxItems"):
                return True
            least = max(_number(each.get("minItems"), 0) for each in (one, other))
            places = range(int(min(least, _MOST_PLACES)))
            return any(self.disjoint(_item(one, place), _item(other, place)) for place in places)
        if kind == "object":
            needed = sorted(_required(one) | _required(other))
            return any(self.disjoint(_property(one, name), _property(other, name)) for name in needed)
        return False


def _key(value: object) -> object:
    """Equal where JSON Schema has two values for the same: 1 is 1.0, but not true."""
    if isinstance(value, dict):
        return frozenset((name, _key(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(map(_key, value))
    return isinstance(value, bool), value


def _types(schema: Mapping[str, object]) -> set[str]:
    values = finite(schema)
    if values is not None:
        return {_type(each) for each in values}
    given = schema.get("type")
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else TYPES
    return {"number" if name == "integer" else str(name) for name in names}


def _type(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, str):
        return "string"
    return "number" if isinstance(value, int | float) else "object" if isinstance(value, dict) else "array"


def _ranges_apart(one: Mapping[str, object], other: Mapping[str, object], least: str, most: str) -> bool:
    """Whether all of one lies below all of the other."""
    return _below(one, other, least, most) or _below(other, one, least, most)


def _below(low: Mapping[str, object], high: Mapping[str, object], least: str, most: str) -> bool:
    end, begin = _number(low.get(most), math.inf), _number(high.get(least), -math.inf)
    if least != "minimum":
        return end < begin
    before = _number(low.get("exclusiveMaximum"), math.inf)
    behind = _number(high.get("exclusiveMinimum"), -math.inf)
    return end < begin or before <= max(begin, behind) or end <= behind


def _number(value: object, otherwise: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _item(schema: Mapping[str, object], index: int) -> object:
    """What the item at a place must fit."""
    first, rest = schema.get("prefixItems"), schema.get("items", True)
    if isinstance(rest, list):
        first, rest = rest, schema.get("additionalItems", True)
    return first[index] if isinstance(first, list) and index < len(first) else rest


def _required(schema: Mapping[str, object]) -> set[str]:
    required = schema.get("required")
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()


def _property(schema: Mapping[str, object], name: str) -> object:
    """What the value of a property must fit."""
    known = schema.get("properties")
    if isinstance(known, Mapping) and name in known:
        return known[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)
