"""Parsers of replies: reasoning, content and tool calls, one file per family of models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from imp_runtime.errors import ImpError
from imp_server.generation.constraint import Wait
from imp_server.generation.events import ReplyParser, ToolArguments, ToolOpen
from imp_server.parsers.family import Family, ParserFamily, bind
from imp_server.parsers.reader import Tools

__all__ = ["ParserFamily", "Wait", "families", "for_model", "readers_of", "recognise"]


@cache
def families() -> dict[str, Family]:
    """The families by name: the modules of this package that have a FAMILY."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    found = [module.FAMILY for module in modules if isinstance(getattr(module, "FAMILY", None), Family)]
    return {family.name: family for family in sorted(found, key=lambda family: family.name)}


def recognise(template: str) -> str:
    """The name of the family that a chat template belongs to by its words: the one with most of its marks in it."""
    return max(families().values(), key=lambda family: (_weight(family, template), family.name == "plain")).name


def readers_of(
    written: str, prompt_tail: str, tools: Tools, calls: Sequence[tuple[str, object]], template: str
) -> list[str]:
    """The families that read exactly `calls` (name, arguments) of `tools` out of `written`, likeliest first by marks.

    `written` is what `template` makes of a turn with these calls, behind `prompt_tail`.
    """
    found = [
        family
        for family in families().values()
        if family.syntax and _calls_in(bind(family, template, written).start(prompt_tail, tools), written) == calls
    ]
    return [family.name for family in sorted(found, key=lambda family: -_weight(family, template))]


def for_model(template: str, override: str | None = None, written: str = "") -> ParserFamily:
    """The parser family for a chat template, or the one named `override`. ImpError when there is none of that name.

    `written` are calls as the template writes past ones, where that is known.
    """
    name = override or recognise(template)
    if name not in families():
        raise ImpError(f"there is no parser {name!r}; there are {', '.join(families())}")
    return bind(families()[name], template, written)


def _weight(family: Family, template: str) -> int:
    return max((sum(map(len, marks)) for marks in family.marks if all(mark in template for mark in marks)), default=0)


def _calls_in(parser: ReplyParser, reply: str) -> list[tuple[str, object]]:
    """Name and arguments of the calls that `parser` finds; arguments that are no JSON as text."""
    names: list[str] = []
    arguments: list[str] = []
    for piece in (*parser.push(reply), *parser.finish()):
        if isinstance(piece, ToolOpen):
            names.append(piece.name)
            arguments.append("")
        elif isinstance(piece, ToolArguments):
            arguments[-1] += piece.text
    return list(zip(names, map(_value, arguments), strict=True))


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
