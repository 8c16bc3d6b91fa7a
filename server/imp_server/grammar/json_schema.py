"""JSON schemas in the words that llguidance knows: what says nothing left out, what can be said otherwise rewritten.

https://json-schema.org/draft/2020-12 and draft-07; what llguidance knows is in its docs/json_schema.md. A rewriting
allows the same values: it only adds conditions in `allOf`, so that references into the schema stay right.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping

from imp_runtime.errors import ImpError
from imp_server.grammar.schema_disjoint import Comparison
from imp_server.grammar.schema_ends import endless_references, ends
from imp_server.grammar.schema_lists import containing, unique
from imp_server.grammar.schema_negation import finite, negated, resolved, together
from imp_server.grammar.schema_places import NAMED, ONE, SEVERAL, Schema, without

# `format` asserts nothing in JSON Schema; these are held to all the same.
_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown")
)
_APPLICATORS = frozenset(("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "not"))
_MOST_CLOSE = 200  # pairs of alternatives that are kept apart
_COUNTS = frozenset(("minItems", "maxItems", "minLength", "maxLength"))


class SchemaError(ImpError):
    """A schema that a reply cannot be held to; the message names the place and the keyword."""

    def __init__(self, path: str, keyword: str, why: str) -> None:
        super().__init__(f"{path or 'the schema'}: {keyword} {why}")


def prepared(schema: object, where: str = "", *, lenient: bool = False) -> Schema:
    """`schema` for llguidance; `where` is what its root is called in messages.

    With `lenient`, keywords that a reply cannot be held to are left out. Raises SchemaError.
    """
    if not isinstance(schema, dict | bool):
        kind = "a list" if isinstance(schema, list) else f"the value {json.dumps(schema)[:40]}"
        raise SchemaError(where, "a schema", f"is an object or a boolean, not {kind}")
    if isinstance(schema, bool):
        return schema
    ready = _Rewriting(schema, lenient).node(schema, where)
    endless = endless_references(ready)
    if not ends(ready, endless):
        if names := ", ".join(sorted(endless)):
            raise SchemaError(where, "$ref", f"never ends: every value must hold another of {names}; make one optional")
        raise SchemaError(where, "it", "contradicts itself: no value fits")
    found = without(ready, endless)
    return {**found, "x-guidance": {"coerce_one_of": True}} if lenient and isinstance(found, dict) else found


def _all(*schemas: Schema) -> Schema:
    several: list[object] = [each for each in schemas if each is not True]
    return {"allOf": several}


class _Rewriting:
    """One schema on its way. Methods named after keywords give the conditions that take a keyword's place.

    None leaves the keyword as it is.
    """

    def __init__(self, root: Mapping[str, object], lenient: bool) -> None:
        self._root = root
        self._comparison = Comparison(root)
        self._lenient = lenient

    def node(self, schema: object, path: str) -> Schema:
        """A schema and all that is in it."""
        if not isinstance(schema, dict):
            return schema is not False
        changed: dict[str, object] = {}
        added: list[Schema] = []
        for keyword, value in schema.items():
            instead = _KEYWORDS.get(keyword)
            try:
                conditions = None if instead is None else instead(self, schema, value, path)
            except SchemaError:
                if not self._lenient:
                    raise
                continue
            if conditions is not None:
                added += conditions
                continue
            if keyword == "format" and value not in _FORMATS:
                continue
            if keyword in _COUNTS and isinstance(value, float) and value.is_integer():
                value = int(value)
            changed[keyword] = self._inside(keyword, value, f"{path}.{keyword}" if path else keyword)
        if added:
            given = changed.get("allOf")
            changed["allOf"] = [*(given if isinstance(given, list) else ()), *added]
        return changed

    def _inside(self, keyword: str, value: object, path: str) -> object:
        if keyword in NAMED and isinstance(value, dict):
            return {name: self.node(each, f"{path}.{name}") for name, each in value.items()}
        if keyword in SEVERAL and isinstance(value, list):
            return [self.node(each, f"{path}.{i}") for i, each in enumerate(value)]
        if keyword in ONE and isinstance(value, dict):
            return self.node(value, path)
        return value

    def nothing(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """A keyword that another one takes along, or that asserts nothing."""
        return []

    def unique_items(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """Lists of the few values that there are, or of one item at most."""
        most = schema.get("maxItems")
        if value is not True or (isinstance(most, int) and most <= 1):
            return []
        values = finite(resolved(schema.get("items"), self._root))
        if values is None or "prefixItems" in schema:
            raise SchemaError(path, "uniqueItems", "cannot be enforced, except for items of a few values; leave it out")
        lists = unique(values, most if isinstance(most, int) else len(values), self._root)
        if lists is None:
            raise SchemaError(path, "uniqueItems", f"cannot be enforced for {len(values)} values; leave it out")
        return [lists]

    def negation(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`not`."""
        return [self._negated(schema, value, path, "not")]

    def condition(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`if` with `then` and `else`."""
        if "then" not in schema and "else" not in schema:
            return []
        then, other = (self.node(schema.get(word, True), f"{path}.{word}".lstrip(".")) for word in ("then", "else"))
        if then is True and other is True:
            return []
        given = self.node(value, f"{path}.if".lstrip("."))
        return [{"anyOf": [_all(given, then), _all(self._negated(schema, value, path, "if"), other)]}]

    def dependencies(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`dependencies`, `dependentRequired` and `dependentSchemas`: without the property, or with what it needs."""
        found: list[Schema] = []
        for name, needed in value.items() if isinstance(value, dict) else ():
            if isinstance(needed, list):
                then: Schema = {"required": [name, *needed]}
            else:
                then = _all({"required": [name]}, self.node(needed, f"{path}.{name}".lstrip(".")))
            found.append({"anyOf": [{"properties": {name: False}}, then]})
        return found

    def property_names(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`propertyNames` by pattern, length or enum."""
        value = resolved(value, self._root)
        if value is True or value == {}:
            return []
        if value is False:
            return [{"additionalProperties": False}]
        if isinstance(value, dict):
            asked = value.keys() - {"type", "title", "description", "$comment"}
            if value.get("type", "string") == "string" and not asked:
                return []
            if asked == {"pattern"}:
                return [{"patternProperties": {value["pattern"]: True}, "additionalProperties": False}]
            if asked <= {"minLength", "maxLength"}:
                length = f"{{{value.get('minLength', 0)},{value.get('maxLength', '')}}}"
                return [{"patternProperties": {rf"^[\s\S]{length}$": True}, "additionalProperties": False}]
            names = finite(value)
            if names is not None:
                return [{"properties": {str(name): True for name in names if isinstance(name, str)},
                         "additionalProperties": False}]  # fmt: skip
        raise SchemaError(path, "propertyNames", "can be a pattern, a length or an enum; nothing else can be enforced")

    def least_properties(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`minProperties`, where `required` is enough for it, or any one of the known properties."""
        named, needed, closed = _object(schema)
        if not isinstance(value, int | float) or value <= len(needed):
            return []
        if named <= needed:
            return [{"minProperties": int(value)}]
        if value == 1 and closed:
            return [{"anyOf": [{"required": [name]} for name in sorted(named)]}]
        raise SchemaError(path, "minProperties", "cannot be enforced beside optional properties; use required")

    def most_properties(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`maxProperties`, where there are not more."""
        named, needed, closed = _object(schema)
        if not isinstance(value, int | float) or (closed and len(named) <= value):
            return []
        if named <= needed:
            return [{"maxProperties": int(value)}]
        raise SchemaError(path, "maxProperties", "cannot be enforced beside optional properties; leave it out")

    def contains(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`contains` with `minContains` and `maxContains`, in lists that are not long."""
        least, most = (schema.get(word, usual) for word, usual in (("minContains", 1), ("maxContains", None)))
        if not isinstance(least, int | float) or not isinstance(most, int | float | None):
            raise SchemaError(path, "contains", "has a minContains or maxContains that is no number")
        if least <= 0 and most is None:
            return []
        longest = 0 if most is not None and most < 1 else schema.get("maxItems")
        if not isinstance(longest, int | float):
            raise SchemaError(path, "contains", "cannot be enforced without maxItems; say how long the list may be")
        place = f"{path}.contains".lstrip(".")
        wanted = self.node(value, place)
        refused = negated(value, schema.get("items"), self._root) if most is not None else None
        other = None if refused is None else self.node(refused, place)
        limits = (math.ceil(least), None if most is None else math.floor(most), int(longest))
        found = containing(wanted, other, *limits, self._root)
        if found is None:
            raise SchemaError(path, "contains", "cannot be enforced here; shorten maxItems, or leave it out")
        if found == {"anyOf": []}:
            raise SchemaError(path, "contains", "asks for more items than maxItems has room for")
        return [found]

    def one_of(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema] | None:
        """`oneOf`: alternatives that are apart, or can be kept apart by what the others refuse.

        Where neither is known, llguidance looks whether it sees that they are apart.
        """
        where = f"{path}.oneOf".lstrip(".")
        alternatives = list(value) if isinstance(value, list) else []
        pairs = itertools.combinations(range(len(alternatives)), 2)
        doubtful = ((i, j) for i, j in pairs if not self._comparison.disjoint(alternatives[i], alternatives[j]))
        close = list(itertools.islice(doubtful, _MOST_CLOSE + 1))
        if len(close) > _MOST_CLOSE:
            if self._lenient:
                return None
            raise SchemaError(where, "it", "has too many alternatives that may hold for the same value; use anyOf")
        found = [[self.node(each, f"{where}.{i}")] for i, each in enumerate(alternatives)]
        for i, j in (*close, *((j, i) for i, j in close)):
            known = together(schema, resolved(alternatives[i], self._root))
            refused = negated(alternatives[j], known, self._root)
            if refused is None:
                return None
            found[i].append(self.node(refused, where))
        return [{"anyOf": [each[0] if len(each) == 1 else _all(*each) for each in found]}]

    def unevaluated_properties(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """Without other schemas in the same place, it is `additionalProperties`."""
        return self._unevaluated(schema, value, path, "unevaluatedProperties", "additionalProperties")

    def unevaluated_items(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """Without other schemas in the same place, it is `items` behind `prefixItems`, or `additionalItems`."""
        plain = "additionalItems" if isinstance(schema.get("items"), list) else "items"
        return self._unevaluated(schema, value, path, "unevaluatedItems", plain)

    def dynamic(self, schema: Mapping[str, object], value: object, path: str) -> list[Schema]:
        """`$dynamicRef` and `$recursiveRef`."""
        raise SchemaError(path, "$dynamicRef", "is not known; use $ref")

    def _unevaluated(
        self, schema: Mapping[str, object], value: object, path: str, word: str, plain: str
    ) -> list[Schema]:
        if value is True or value == {} or plain in schema:
            return []
        if schema.keys() & _APPLICATORS:
            raise SchemaError(path, word, f"beside other schemas cannot be enforced; use {plain}")
        kept = ("properties", "patternProperties") if plain == "additionalProperties" else ("prefixItems", "items")
        beside = {name: schema[name] for name in kept if name in schema}
        return [self.node({**beside, plain: value}, path)]

    def _negated(self, schema: Mapping[str, object], value: object, path: str, keyword: str) -> Schema:
        found = negated(value, schema, self._root)
        if found is None:
            raise SchemaError(path, keyword, "cannot be enforced here; say with enum, type or anyOf what is allowed")
        return self.node(found, path)


def _object(schema: Mapping[str, object]) -> tuple[set[str], set[str], bool]:
    """The known properties, the required ones, and whether there are no others."""
    properties, required = schema.get("properties"), schema.get("required")
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    named = set(properties) if isinstance(properties, dict) else set()
    return named, set(required) if isinstance(required, list) else set(), closed


_Instead = Callable[[_Rewriting, Mapping[str, object], object, str], list[Schema] | None]
_KEYWORDS: Mapping[str, _Instead] = {
    "uniqueItems": _Rewriting.unique_items,
    "not": _Rewriting.negation,
    "if": _Rewriting.condition,
    "then": _Rewriting.nothing,
    "else": _Rewriting.nothing,
    "dependencies": _Rewriting.dependencies,
    "dependentRequired": _Rewriting.dependencies,
    "dependentSchemas": _Rewriting.dependencies,
    "propertyNames": _Rewriting.property_names,
    "minProperties": _Rewriting.least_properties,
    "maxProperties": _Rewriting.most_properties,
    "contains": _Rewriting.contains,
    "oneOf": _Rewriting.one_of,
    "minContains": _Rewriting.nothing,
    "maxContains": _Rewriting.nothing,
    "unevaluatedProperties": _Rewriting.unevaluated_properties,
    "unevaluatedItems": _Rewriting.unevaluated_items,
    "$dynamicRef": _Rewriting.dynamic,
    "$recursiveRef": _Rewriting.dynamic,
    "$dynamicAnchor": _Rewriting.nothing,
    "$recursiveAnchor": _Rewriting.nothing,
}
