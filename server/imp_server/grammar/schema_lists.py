"""Conditions on whole lists, said as alternatives of what stands at which place, where those are few."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from imp_server.grammar.schema_places import Schema

_MOST_ALTERNATIVES = 330  # all orders of five values; llguidance needs two seconds for as many


def unique(values: Sequence[object], longest: int, root: Mapping[str, object]) -> Schema | None:
    """Lists of up to `longest` of `values`, none of them twice; None where there are too many.

    `root` is the schema that it will be part of, which says what the keywords of lists are called.
    """
    sizes = range(min(len(values), longest) + 1)
    if not _few(math.perm(len(values), size) for size in sizes):
        return None
    lists = (each for size in sizes for each in itertools.permutations(values, size))
    return {"anyOf": [_list([{"const": item} for item in each], False, root) for each in lists]}


def containing(
    wanted: Schema, other: Schema | None, least: int, most: int | None, longest: int, root: Mapping[str, object]
) -> Schema | None:
    """Lists of up to `longest` items, at least `least` and at most `most` of which fit `wanted`.

    `other` is what the others fit, None where it cannot be said. None where there are too many ways, or none to say it.
    `root` as in `unique`.
    """
    if most is not None and other is None:
        return None
    counts = (least,) if most is None else range(least, min(most, longest) + 1)
    if longest > _MOST_ALTERNATIVES or not _few(math.comb(longest, count) for count in counts):
        return None
    rest: Schema = True if most is None or other is None else other
    return {
        "anyOf": [
            _list([wanted if place in places else rest for place in range(places[-1] + 1 if places else 0)], rest, root)
            for count in counts
            for places in itertools.combinations(range(longest), count)
        ]
    }


def _few(counts: Iterable[int]) -> bool:
    """Whether the sum is one of few alternatives; what comes behind those is not computed."""
    return all(total <= _MOST_ALTERNATIVES for total in itertools.accumulate(counts))


def _list(begin: Sequence[Schema], rest: Schema, root: Mapping[str, object]) -> Schema:
    """Lists that begin with items that fit `begin`, and go on with such that fit `rest`."""
    draft = root.get("$schema")
    # https://json-schema.org/draft/2020-12/release-notes: `items` was what `prefixItems` is since.
    old = isinstance(draft, str) and any(name in draft for name in ("draft-04", "draft-06", "draft-07", "2019-09"))
    first, others = ("items", "additionalItems") if old and begin else ("prefixItems", "items")
    end = {"maxItems": len(begin)} if rest is False else {others: rest}
    return {**({first: list(begin)} if begin else {}), "minItems": len(begin), **end}
