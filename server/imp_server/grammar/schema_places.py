"""Where in a JSON schema other schemas are."""

from __future__ import annotations

from collections.abc import Iterator

Schema = dict[str, object] | bool

ONE = ("additionalProperties", "additionalItems", "items", "contains", "propertyNames", "not", "if", "then", "else",
        "unevaluatedProperties", "unevaluatedItems")  # fmt: skip
SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


def one_of_places(schema: object, path: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """Every `oneOf` of a schema with its place, each as a schema of its own."""
    if not isinstance(schema, dict):
        return
    below = [(f"{path}.{word}.{name}", each) for word in NAMED if isinstance(schema.get(word), dict)
             for name, each in schema[word].items()]  # fmt: skip
    below += [(f"{path}.{word}.{i}", each) for word in SEVERAL if isinstance(schema.get(word), list)
              for i, each in enumerate(schema[word])]  # fmt: skip
    below += [(f"{path}.{word}", schema[word]) for word in ONE if isinstance(schema.get(word), dict)]
    for place, each in below:
        yield from one_of_places(each, place)
    if "oneOf" in schema:
        yield f"{path}.oneOf".lstrip("."), schema


def without(schema: object, endless: frozenset[str]) -> Schema:
    """`schema` where nothing can stand for a reference that never ends."""
    if not isinstance(schema, dict):
        return schema is not False
    if schema.get("$ref") in endless:
        return False
    changed: dict[str, object] = dict(schema)
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, dict):
            changed[keyword] = {name: without(each, endless) for name, each in value.items()}
        elif keyword in SEVERAL and isinstance(value, list):
            changed[keyword] = [without(each, endless) for each in value]
        elif keyword in ONE and isinstance(value, dict):
            changed[keyword] = without(value, endless)
    return changed
