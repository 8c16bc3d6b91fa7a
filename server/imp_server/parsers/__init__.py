"""Parsers of replies: reasoning, content and tool calls, one file per family of models."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from imp_runtime.errors import ImpError
from imp_server.parsers.family import Family, ParserFamily, Wait, bind

__all__ = ["ParserFamily", "Wait", "families", "for_model", "recognise"]


@cache
def families() -> dict[str, Family]:
    """The families by name: the modules of this package that have a FAMILY."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    found = [module.FAMILY for module in modules if isinstance(getattr(module, "FAMILY", None), Family)]
    return {family.name: family for family in sorted(found, key=lambda family: family.name)}


def recognise(template: str) -> str:
    """The name of the family that a chat template belongs to: the one with most of its marks in it."""

    def weight(family: Family) -> int:
        return max(
            (sum(map(len, marks)) for marks in family.marks if all(mark in template for mark in marks)), default=0
        )

    return max(families().values(), key=lambda family: (weight(family), family.name == "plain")).name


def for_model(template: str, override: str | None = None) -> ParserFamily:
    """The parser family for a chat template, or the one named `override`. ImpError when there is none of that name."""
    name = override or recognise(template)
    if name not in families():
        raise ImpError(f"there is no parser {name!r}; there are {', '.join(families())}")
    return bind(families()[name], template)
