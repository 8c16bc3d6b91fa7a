"""The opposite of a JSON schema, where it can be said with types, enums, patterns and properties."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from imp_server.grammar.schema_ends import target_of

TYPES = ("object", "array", "string", "number", "boolean", "null")
# A bound, the opposite bound, the type that both speak of, and what is added to the number.
_BOUNDS = {
    "minimum": ("exclusiveMaximum", "number", 0),
    "maximum": ("exclusiveMinimum", "number", 0),
    "exclusiveMinimum": ("maximum", "number", 0),
    "exclusiveMaximum": ("minimum", "number", 0),
    "minLength": ("maxLength", "string", -1),
    "maxLength": ("minLength", "string", 1),
    "minItems": ("maxItems", "array", -1),
    "maxItems": ("minItems", "array", 1),
}
_MOST_INTEGERS = 100
_ANNOTATIONS = frozenset(("title", "description", "$comment", "examples", "default", "deprecated"))


def negated(schema: object, context: object, root: object) -> dict[str, object] | bool | None:
    """A schema of the values that `schema` refuses; None where there is no way to say it.

    `context` is a schema that the values are known to fit: where that has an enum, the opposite of a constant is the
    rest of it. References are looked up in `root`.
    """
    schema, context = resolved(schema, root), resolved(context, root)
    if not isinstance(schema, dict):
        return schema is False
    words = schema.keys() - _ANNOTATIONS
    parts = [_part(word, schema, context, root) for word in sorted(words)]
    if None in parts:
        return None
    return False if not parts else parts[0] if len(parts) == 1 else {"anyOf": parts}


def together(schema: Mapping[str, object], alternative: object) -> Mapping[str, object]:
    """What is known of a value that fits a schema by one of its alternatives: types, enums and properties."""
    found = {**schema, **alternative} if isinstance(alternative, dict) else dict(schema)
    several = [each.get("properties") for each in (schema, alternative) if isinstance(each, Mapping)]
    found["properties"] = {name: each for known in several if isinstance(known, dict) for name, each in known.items()}
    return found


def finite(schema: object) -> list[object] | None:
    """The values of a schema that has few, or a few more; None for others."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    if isinstance(values, list):
        return values
    kind = schema.get("type")
    if kind == "integer":
        return _integers(schema.get("minimum"), schema.get("maximum"))
    return [True, False] if kind == "boolean" else [None] if kind == "null" else None


def _integers(least: object, most: object) -> list[object] | None:
    if not isinstance(least, int | float) or not isinstance(most, int | float) or most - least > _MOST_INTEGERS:
        return None
    return list(range(math.ceil(least), math.floor(most) + 1))


def _part(word: str, schema: Mapping[str, object], context: object, root: object) -> dict[str, object] | bool | None:
    """The opposite of one keyword."""
    value = schema[word]
    if word == "type":
        known = context.get("type") if isinstance(context, Mapping) else None
        return (
            False
            if value == known or (value, known) == ("number", "integer")
            else _other_types([value] if isinstance(value, str) else value)
        )
    if word in ("const", "enum"):
        refused = [value] if word == "const" else value
        return _other_values(refused, context) if isinstance(refused, list) else None
    if word == "required" and isinstance(value, list):
        return {"type": "object", "anyOf": [{"properties": {name: False}} for name in value]} if value else False
    if word == "properties" and isinstance(value, dict):
        known = context.get("properties") if isinstance(context, Mapping) else None
        found = {
            name: negated(each, known.get(name) if isinstance(known, Mapping) else None, root)
            for name, each in value.items()
        }
        if None in found.values():
            return None
        return {
            "type": "object",
            "anyOf": [{"required": [name], "properties": {name: each}} for name, each in found.items()],
        }
    if word in ("anyOf", "allOf") and isinstance(value, list):
        parts = [negated(each, context, root) for each in value]
        return None if None in parts else {"allOf" if word == "anyOf" else "anyOf": parts}
    if word in _BOUNDS and isinstance(value, int | float) and not isinstance(value, bool):
        opposite, kind, more = _BOUNDS[word]
        return {"type": kind, opposite: value + more} if value + more >= 0 or kind == "number" else False
    if word == "not":
        return value if isinstance(value, dict | bool) else None
    return None


def _other_types(refused: object) -> dict[str, object] | bool | None:
    if not isinstance(refused, list) or "integer" in refused:
        return None  # numbers that are not integers have no schema here
    rest = [name for name in TYPES if name not in refused]
    return {"type": rest} if rest else False


def _other_values(refused: list[object], context: object) -> dict[str, object] | bool | None:
    known = finite(context)
    if known is not None:
        rest = [each for each in known if not any(_same(each, other) for other in refused)]
        return {"enum": rest} if rest else False
    if not all(isinstance(each, str) for each in refused):
        return None
    if isinstance(context, Mapping) and context.get("type") == "string":
        return {"type": "string", "allOf": [{"pattern": _all_but(str(each))} for each in refused]}
    others: dict[str, object] = {"type": [name for name in TYPES if name != "string"]}
    return {"anyOf": [others, {"type": "string", "allOf": [{"pattern": _all_but(str(each))} for each in refused]}]}


def _all_but(text: str) -> str:
    """A regular expression of all texts but one: a beginning of it, it and more, or another letter at some place."""
    pattern = r"[\s\S]+"
    for letter in reversed(text):
        other = rf"[^{re.escape(letter)}][\s\S]*"
        pattern = rf"(?:|{other}|{re.escape(letter)}{pattern})"
    return f"^{pattern}$"


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def resolved(schema: object, root: object) -> object:
    """`schema`, or what it refers to in `root` where it is nothing but a reference."""
    seen: set[str] = set()
    while isinstance(schema, dict) and schema.keys() - _ANNOTATIONS == {"$ref"} and schema["$ref"] not in seen:
        seen.add(str(schema["$ref"]))
        target = target_of(str(schema["$ref"]), root)
        if target is None:
            break
        schema = target
    return schema
