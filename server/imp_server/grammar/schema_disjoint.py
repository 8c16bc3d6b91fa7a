"""Which JSON schemas no value fits both of, as far as types, constants, ranges and single properties show it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from imp_server.grammar.schema_negation import TYPES, finite, resolved, same

_FORMATS = frozenset(("date", "date-time", "time", "email", "ipv4", "ipv6", "uuid"))  # no text has two of these forms
_MOST_DEPTH = 16


def disjoint(one: object, other: object, root: object, depth: int = 0) -> bool:
    """Whether it is sure that no value fits both. References are looked up in `root`."""
    one, other = resolved(one, root), resolved(other, root)
    if one is False or other is False:
        return True
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or depth > _MOST_DEPTH:
        return False
    for left, right in ((one, other), (other, one)):
        for word, holds in (("allOf", any), ("anyOf", all), ("oneOf", all)):
            parts = left.get(word)
            if isinstance(parts, list) and holds(disjoint(each, right, root, depth + 1) for each in parts):
                return True
    values = [finite(each) for each in (one, other)]
    if values[0] is not None and values[1] is not None:
        return not any(same(left, right) for left in values[0] for right in values[1])
    # Each type that a value of both could have must keep them apart by itself.
    return all(_apart(kind, one, other, root, depth) for kind in _types(one) & _types(other))


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


def _apart(kind: str, one: Mapping[str, object], other: Mapping[str, object], root: object, depth: int) -> bool:
    """Whether no value of a type fits both."""
    if kind == "number":
        return _ranges_apart(one, other, "minimum", "maximum") or _ranges_apart(other, one, "minimum", "maximum")
    if kind == "string":
        forms = {one.get("format"), other.get("format")}
        lengths = ("minLength", "maxLength")
        return (len(forms) == 2 and forms <= _FORMATS) or (
            _ranges_apart(one, other, *lengths) or _ranges_apart(other, one, *lengths)
        )
    if kind == "array":
        counts = ("minItems", "maxItems")
        if _ranges_apart(one, other, *counts) or _ranges_apart(other, one, *counts):
            return True
        least = min(_number(each.get("minItems"), 0) for each in (one, other))
        return any(
            disjoint(_item(one, i), _item(other, i), root, depth + 1) for i in range(int(min(least, _MOST_DEPTH)))
        )
    if kind == "object":
        return any(
            disjoint(_property(one, name), _property(other, name), root, depth + 1)
            for name in _required(one) | _required(other)
        )
    return False


def _ranges_apart(low: Mapping[str, object], high: Mapping[str, object], least: str, most: str) -> bool:
    """Whether all of `low` lies below all of `high`."""
    end, begin = _number(low.get(most), math.inf), _number(high.get(least), -math.inf)
    if least == "minimum":
        excluded = _number(low.get("exclusiveMaximum"), math.inf), _number(high.get("exclusiveMinimum"), -math.inf)
        if excluded[0] <= max(begin, excluded[1]) or end <= excluded[1]:
            return True
    return end < begin


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
