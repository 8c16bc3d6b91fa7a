"""Which references of a JSON schema lead to values that never end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from urllib.parse import unquote

_MOST_PASSES = 8


def endless_references(root: object) -> frozenset[str]:
    """The `$ref`s to which no finite value answers.

    A value ends where all that it must have ends: found by assuming that no reference ends, and taking back the
    assumption for those that do until nothing changes. Raises RecursionError where that does not come to an end soon.
    """
    targets = {each: target for each in _references(root) if (target := target_of(each, root)) is not None}
    endless = set(targets)
    for _ in range(_MOST_PASSES):
        before = len(endless)
        # One pass in the order of the text and one against it, since definitions mostly refer in one direction.
        for reference in (*targets, *reversed(targets)):
            if reference in endless and ends(targets[reference], endless):
                endless.remove(reference)
        if len(endless) == before:
            return frozenset(endless)
    raise RecursionError("its references lead to each other in too many ways")


def target_of(reference: str, root: object) -> object:
    """What `#/a/b` refers to in `root`; None for what is no such reference, or leads nowhere."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    target = root
    for key in map(_key, reference.split("/")[1:]):
        if isinstance(target, Mapping):
            target = target.get(key)
        elif isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            return None
    return target


def _key(text: str) -> str:
    return unquote(text).replace("~1", "/").replace("~0", "~")


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def ends(schema: object, endless: Set[str]) -> bool:
    """Whether some value of `schema` ends, if no value of the references `endless` does."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if schema.get("$ref") in endless:
        return False
    for word, holds in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        several = schema.get(word)
        if isinstance(several, list) and not holds(ends(each, endless) for each in several):
            return False
    kinds = schema.get("type")
    types = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else {"null"}
    if "enum" in schema or "const" in schema or types - {"object", "array"}:
        return True
    return ("object" in types and _object_ends(schema, endless)) or ("array" in types and _list_ends(schema, endless))


def _object_ends(schema: Mapping[str, object], endless: Set[str]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    known = properties if isinstance(properties, Mapping) else {}
    others = schema.get("additionalProperties", True)
    needed = required if isinstance(required, list) else []
    return all(ends(known.get(name, others), endless) for name in needed if isinstance(name, str))


def _list_ends(schema: Mapping[str, object], endless: Set[str]) -> bool:
    least = schema.get("minItems")
    first, rest = schema.get("prefixItems", schema.get("items")), schema.get("items", True)
    if isinstance(rest, list):
        rest = schema.get("additionalItems", True)
    begin = first if isinstance(first, list) else []
    count = int(least) if isinstance(least, int | float) else 0
    return all(ends(each, endless) for each in begin[:count]) and (count <= len(begin) or ends(rest, endless))
