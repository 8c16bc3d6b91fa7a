"""Schemas rewritten for llguidance: what is accepted is enforced, judged by `jsonschema`; what is not says where."""

from __future__ import annotations

import functools
import itertools
import json
import time

import jsonschema
import pytest
from test_structured import fits, vocabulary, walk

from imp_server.grammar import masks
from imp_server.grammar.json_schema import SchemaError, prepared
from imp_server.grammar.masks import GrammarError

KIND = {"type": "string", "enum": ["circle", "square"]}
SIZE = {"type": "integer", "minimum": 0, "maximum": 9}
CLOSED = {"type": "object", "additionalProperties": False}

# Schemas, and values that some of them fit: each value must be possible exactly where it is valid.
CASES: dict[str, tuple[object, list[object]]] = {
    "uniqueItems false": ({"type": "array", "items": SIZE, "uniqueItems": False, "maxItems": 3}, [[], [1, 1]]),
    "unique items of an enum": (
        {"type": "array", "items": {"enum": ["a", 2, None]}, "uniqueItems": True},
        [[], ["a"], [2, "a"], ["a", 2, None], ["a", "a"], [2, None, 2], ["b"]],
    ),
    "unique items by reference": (
        {"type": "array", "items": {"$ref": "#/$defs/E"}, "uniqueItems": True, "$defs": {"E": {"enum": ["a", "b"]}}},
        [[], ["a"], ["b", "a"], ["a", "a"], ["c"]],
    ),
    "one unique item": ({"type": "array", "items": SIZE, "uniqueItems": True, "maxItems": 1}, [[], [1], [1, 2]]),
    "unique booleans": (
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2},
        [[True, False], [False, True], [True], [True, True]],
    ),
    "not a type": ({"not": {"type": ["object", "array", "string"]}}, [1, None, True, "a", {}, [1]]),
    "not these values": ({**KIND, "not": {"const": "circle"}}, ["circle", "square"]),
    "not this text": ({"type": "string", "maxLength": 3, "not": {"enum": ["ab", "a/"]}},
                      ["ab", "a", "", "abc", "a/", "ba", "a\n"]),
    "not this property": (
        {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "not": {"required": ["a"]}}, [{}, {"b": 1}, {"a": 1}]
    ),
    "not two properties": (
        {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "not": {"required": ["a", "b"]}},
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
    ),
    "if, then and else": (
        {**CLOSED, "properties": {"kind": KIND, "radius": SIZE, "side": SIZE}, "required": ["kind"],
         "if": {"properties": {"kind": {"const": "circle"}}, "required": ["kind"]},
         "then": {"required": ["radius"], "properties": {"side": False}}, "else": {"required": ["side"]}},
        [{"kind": "circle", "radius": 1}, {"kind": "square", "side": 1}, {"kind": "circle"}, {"kind": "square"},
         {"kind": "circle", "radius": 1, "side": 2}, {"kind": "square", "radius": 1, "side": 2}],
    ),
    "if without required": (
        {**CLOSED, "properties": {"on": {"type": "boolean"}, "why": SIZE},
         "if": {"properties": {"on": {"const": True}}}, "then": {"required": ["why"]}},
        [{}, {"on": True}, {"on": False}, {"on": True, "why": 1}, {"why": 1}],
    ),
    "if a number": (
        {"type": "integer", "minimum": 0, "maximum": 99, "if": {"minimum": 50}, "then": {"multipleOf": 10}},
        [5, 49, 50, 60, 51, 99],
    ),
    "if of a free text": (
        {**CLOSED, "properties": {"to": {"type": "string", "maxLength": 3}, "n": SIZE}, "required": ["to"],
         "if": {"properties": {"to": {"const": "x"}}}, "then": {"required": ["n"]}},
        [{"to": "x"}, {"to": "x", "n": 1}, {"to": "xy"}, {"to": ""}, {"to": "y"}],
    ),
    "if alone": ({**KIND, "if": {"const": "circle"}}, ["circle", "square"]),
    "dependencies": (
        {"$schema": "http://json-schema.org/draft-07/schema#", **CLOSED,
         "properties": {"a": SIZE, "b": SIZE, "c": SIZE},
         "dependencies": {"a": ["b"], "b": {"required": ["c"]}}},
        [{}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, {"b": 1}, {"b": 1, "c": 2}, {"c": 1}],
    ),
    "dependent": (
        {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "dependentRequired": {"a": ["b"]},
         "dependentSchemas": {"b": {"properties": {"b": {"maximum": 5}}}}},
        [{}, {"a": 1}, {"a": 1, "b": 2}, {"b": 6}, {"b": 5}],
    ),
    "names by pattern": (
        {"type": "object", "additionalProperties": SIZE, "propertyNames": {"pattern": "^[a-c]{1,2}$"}},
        [{}, {"a": 1}, {"ab": 1, "c": 2}, {"d": 1}, {"abc": 1}, {"a": "x"}],
    ),
    "names by length": (
        {"type": "object", "additionalProperties": SIZE, "propertyNames": {"minLength": 2, "maxLength": 3}},
        [{}, {"ab": 1}, {"a": 1}, {"abcd": 1}],
    ),
    "names by enum": (
        {"type": "object", "additionalProperties": SIZE, "propertyNames": {"enum": ["x", "y"]}},
        [{}, {"x": 1}, {"x": 1, "y": 2}, {"z": 1}],
    ),
    "any text as a name": (
        {"type": "object", "additionalProperties": SIZE, "propertyNames": {"type": "string"}, "maxProperties": 2},
        [{}, {"q": 1}, {"q": "x"}],
    ),
    "one property at least": (
        {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "minProperties": 1}, [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}]
    ),
    "no more properties than there are": ({**CLOSED, "properties": {"a": SIZE}, "maxProperties": 1.0}, [{}, {"a": 1}]),
    "nothing unevaluated": (
        {"type": "object", "properties": {"a": SIZE}, "unevaluatedProperties": False}, [{}, {"a": 1}, {"b": 1}]
    ),
    "contains nothing": (
        {"type": "array", "items": SIZE, "contains": SIZE, "minContains": 0, "maxItems": 2}, [[], [1]]
    ),
    "contains once at least": (
        {"type": "array", "items": SIZE, "contains": {"minimum": 5}, "maxItems": 3},
        [[], [1], [5], [1, 9], [9, 1], [1, 1, 1], [1, 1, 7], [7, 7, 7]],
    ),
    "contains some": (
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "contains": {"const": "a"}, "minContains": 1,
         "maxContains": 2, "maxItems": 3, "minItems": 1},
        [[], ["a"], ["b"], ["b", "a"], ["a", "b", "a"], ["a", "a"], ["a", "a", "a"], ["c", "b", "a"], ["c", "b", "c"]],
    ),
    "contains no more": (
        {"type": "array", "items": KIND, "contains": {"const": "circle"}, "minContains": 0, "maxContains": 1,
         "maxItems": 2}, [[], ["circle"], ["square", "circle"], ["circle", "circle"], ["square", "square"]],
    ),
    "contains none": (
        {"type": "array", "items": KIND, "contains": {"const": "circle"}, "minContains": 0, "maxContains": 0,
         "minItems": 1}, [[], ["circle"], ["square"], ["square", "square"], ["square", "circle"]],
    ),
    "unique and containing, as draft 7 has it": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": KIND, "uniqueItems": True,
         "contains": {"const": "circle"}, "maxItems": 2},
        [[], ["circle"], ["square"], ["square", "circle"], ["circle", "circle"], ["square", "square"]],
    ),
    "unique numbers of a few": (
        {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "uniqueItems": True, "minItems": 2},
        [[1], [1, 2], [3, 1, 2], [1, 1], [2, 1, 2], [1, 4]],
    ),
    "one of two properties": (
        {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
    ),
    "one of two objects that are open": (
        {"oneOf": [{"type": "object", "properties": {"a": KIND}, "required": ["a"]},
                   {"type": "object", "properties": {"b": KIND}, "required": ["b"]}]},
        [{"a": "circle"}, {"b": "square"}, {"a": "circle", "b": "circle"}, {"a": "circle", "b": 1}, {}, {"c": 1}],
    ),
    "one of, told apart by a constant within": (
        {"oneOf": [{"type": "object", "properties": {"k": {"$ref": f"#/$defs/{name}"}, "n": SIZE}, "required": ["k"]}
                   for name in "xy"],
         "$defs": {name: {"type": "object", "properties": {"t": {"const": number}}, "required": ["t"]}
                   for number, name in enumerate("xy")}},
        [{"k": {"t": 0}}, {"k": {"t": 1}, "n": 1}, {"k": {"t": 2}}, {"k": {}}],
    ),
    "one of, where what tells apart may be absent": (
        {"oneOf": [{**CLOSED, "properties": {"k": {"const": name}, "n": SIZE}, "required": needed}
                   for name, needed in (("x", ["k"]), ("y", []))]},
        [{"k": "x"}, {"k": "y"}, {}, {"n": 1}, {"k": "z"}],
    ),
    "one of two ranges": (
        {"type": "integer", "minimum": 0, "maximum": 9, "oneOf": [{"maximum": 3}, {"minimum": 4}]}, [0, 3, 4, 9]
    ),
    "one of two ranges that touch": (
        {"type": "integer", "minimum": 0, "maximum": 9, "oneOf": [{"exclusiveMaximum": 5}, {"minimum": 5}]}, [4, 5, 6]
    ),
    "one of two ranges that overlap": (
        {"type": "integer", "minimum": 0, "maximum": 9, "oneOf": [{"maximum": 5}, {"minimum": 4}]}, [0, 3, 4, 5, 6, 9]
    ),
    "one of three with a constant in two": (
        {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}, {"type": "integer", "minimum": 1, "maximum": 2}]},
        ["a", "b", "c", 1, 3],
    ),
    "one of several lists and truths": (
        {"oneOf": [{"const": [1, {"a": 2}]}, {"enum": [[1, {"a": True}], True]}, {"enum": [1, None]}]},
        [[1, {"a": 2}], [1, {"a": True}], True, 1, None, False, [1]],
    ),
    "one of a text and a longer one": (
        {"oneOf": [{"const": "ab"}, {"type": "string", "minLength": 2, "maxLength": 3}]}, ["ab", "ac", "abc", "a"]
    ),
    "one of two forms of text": (
        {"oneOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]},
        ["127.0.0.1", "::1", "x"],
    ),
    "one of two lists": (
        {"oneOf": [{"type": "array", "items": SIZE, "minItems": 1, "maxItems": 2},
                   {"type": "array", "items": KIND, "minItems": 1, "maxItems": 2}]},
        [[], [1], ["circle"], [1, "circle"]],
    ),
    "null, or a text that may be null": ({"oneOf": [{"type": ["string", "null"], "maxLength": 1}, {"type": "null"}]},
                                         ["a", None]),
    "inside": (
        {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/pair"},
         "$defs": {"pair": {**CLOSED, "properties": {"a": SIZE, "b": SIZE}, "dependentRequired": {"a": ["b"]}}}},
        [[], [{}], [{"a": 1}], [{"b": 1}, {"a": 1, "b": 2}]],
    ),
    "a part that never ends": (
        {**CLOSED, "properties": {"a": SIZE, "b": {"$ref": "#/$defs/b"}},
         "$defs": {"b": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]}}},
        [{}, {"a": 1}],
    ),
    "a list that may end": (
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"],
         "additionalProperties": False},
        [{"next": None}, {"next": {"next": None}}, {}],
    ),
}  # fmt: skip


# Those whose random walks may be long.
LONG = (
    "a list that may end", "not a type", "one of two objects that are open",
    "one of, told apart by a constant within",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_accepted_is_enforced_and_what_is_valid_is_possible(name: str) -> None:
    schema, values = CASES[name]
    kind = jsonschema.validators.validator_for(schema)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    held = masks.compile("json_schema", json.dumps(schema), vocabulary())
    for value in values:
        # Keys come in the schema's order.
        orders = map(dict, itertools.permutations(value.items())) if isinstance(value, dict) else [value]
        possible = any(fits(held, vocabulary(), json.dumps(each)) for each in orders)
        assert possible == validator.is_valid(value), value
    if name not in LONG:
        for seed in range(6):
            validator.validate(json.loads(walk(held, vocabulary(), seed)))


@pytest.mark.parametrize(
    "schema",
    [
        {"items": {"enum": list(range(30_000))}, "uniqueItems": True},
        {"contains": {"const": 1}, "minContains": 500_000_000, "maxItems": 1_000_000_000},
        {"oneOf": [{"minLength": length} for length in range(3000)]},
        {"oneOf": [{"enum": list(range(i, i + 200))} for i in range(0, 40_000, 200)]},
        {"oneOf": [functools.reduce(lambda inner, _: {"anyOf": [inner] * 9}, range(4), {"type": "number"})] * 2},
    ],
    ids=["permutations", "combinations", "pairs", "values", "depth"],
)
def test_what_would_take_long_is_refused_soon(schema: object) -> None:
    began = time.process_time()
    with pytest.raises(GrammarError):
        masks.compile("json_schema", json.dumps(schema), vocabulary())
    assert time.process_time() - began < 6


@pytest.mark.parametrize("form", ["password", "binary", "byte", "path", "regex", "uri-reference", "int32", "idn-email"])
def test_formats_that_nobody_checks_are_annotations(form: str) -> None:
    schema = {"type": "string", "format": form, "maxLength": 4}
    assert fits(masks.compile("json_schema", json.dumps(schema), vocabulary()), vocabulary(), '"a b"')


def test_known_formats_are_enforced() -> None:
    held = masks.compile("json_schema", '{"type": "string", "format": "date"}', vocabulary())
    assert fits(held, vocabulary(), '"2024-02-29"')
    assert not fits(held, vocabulary(), '"soon"')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "properties.a: uniqueItems cannot be enforced"),
        ({"items": {"not": {"multipleOf": 3}}}, "items: not cannot be enforced here"),
        ({"if": {"pattern": "a"}, "then": {"maxLength": 3}}, "the schema: if cannot be enforced here"),
        ({"$defs": {"n": {"contains": {}}}}, r"\$defs.n: contains cannot be enforced without maxItems"),
        ({"contains": {"type": "string"}, "maxContains": 2, "maxItems": 30}, "contains cannot be enforced here"),
        ({"contains": {}, "minContains": 3, "maxItems": 2}, "contains asks for more items than maxItems"),
        ({"uniqueItems": True, "items": {"type": "integer", "minimum": 0, "maximum": 6}}, "cannot be enforced for 7"),
        ({"propertyNames": {"format": "date"}}, "the schema: propertyNames can be a pattern, a length or an enum"),
        ({"properties": {"a": {}}, "maxProperties": 3}, "maxProperties cannot be enforced beside optional properties"),
        ({"allOf": [{}], "unevaluatedProperties": False}, "unevaluatedProperties beside other schemas"),
        ({"$ref": "#"}, "never ends: every value must hold another of #; make one optional"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "never ends: .* another of #;"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}, "minItems": 1,
                                                            "type": "array"}},
             "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]},
            "never ends: every value must hold another of #/\\$defs/a, #/\\$defs/b",
        ),
        ({"anyOf": [False]}, "contradicts itself"),
        ([1], "a schema is an object or a boolean, not a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_by_name(schema: object, message: str) -> None:
    with pytest.raises(GrammarError, match=f"^the JSON schema cannot be used: .*{message}"):
        masks.compile("json_schema", json.dumps(schema), vocabulary())


def test_alternatives_that_cannot_be_told_apart() -> None:
    both = {
        "properties": {"x": {"oneOf": [{"$ref": "#/$defs/n"}, {"type": "number"}]}},
        "$defs": {"n": {"type": "integer"}},
    }
    with pytest.raises(GrammarError, match=r"properties\.x\.oneOf: two alternatives may hold .*; use anyOf"):
        masks.compile("json_schema", json.dumps(both), vocabulary())


def test_what_is_enforced_of_a_schema_that_is_not_strict() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 2}},
        "not": {"multipleOf": 3},
        "required": ["a"],
        "additionalProperties": False,
    }
    with pytest.raises(SchemaError):
        prepared(schema)
    held = masks.compile("json_schema", json.dumps(prepared(schema, lenient=True)), vocabulary())
    assert fits(held, vocabulary(), '{"a": [1, 1]}')
    assert not fits(held, vocabulary(), "{}")
    assert not fits(held, vocabulary(), '{"a": ["x"]}')
