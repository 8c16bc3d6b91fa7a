"""The list that `imp build` reads: `[[model]]` tables in TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imp_codegen.cache import cache_format
from imp_codegen.rounding import rounding_named
from imp_codegen.targets import find_targets
from imp_runtime.errors import ImpError
from imp_server.commands.compile import form_of, prefill_of

NAME_OF_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_KEYS: Mapping[str, type] = {
    "name": str, "source": str, "targets": list, "context": int, "kv": str, "exec": str, "check": bool, "thin": bool,
    "weights": str, "prefill": str,
}  # fmt: skip
_WORDS = {str: "a text", list: "a list of texts", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A `[[model]]` of the list; the fields are the options of `imp compile` of that name, `form` is `exec`."""

    name: str
    source: str
    targets: tuple[str, ...]
    context: int | None
    kv: str
    form: str
    check: bool
    thin: bool
    weights: str | None
    prefill: str


def read_list(path: Path) -> list[Entry]:
    """The entries of a list. ImpError names file, entry and key of what is wrong."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ImpError(f"{path}: cannot be read as TOML: {getattr(error, 'strerror', None) or error}") from None
    if unknown := sorted(set(document) - {"model"}):
        raise ImpError(f"{path}: {unknown[0]} is unknown; a list has [[model]] tables and nothing else")
    tables = document.get("model")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise ImpError(f"{path}: lists no model; write a [[model]] table with name, source and targets for each")
    entries = [_entry(path, number, each) for number, each in enumerate(tables, 1)]
    names = [entry.name for entry in entries]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ImpError(f"{path}: two entries have the name {twice[0]}; give each its own")
    return entries


def _entry(path: Path, number: int, given: Mapping[str, Any]) -> Entry:
    where = f"{path}: model {number} ({given.get('name', 'without a name')})"
    for key, value in given.items():
        if key not in _KEYS:
            raise ImpError(f"{where}: {key} is unknown; known: {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise ImpError(f"{where}: {key} is {value!r}, expected {_WORDS[_KEYS[key]]}")
    for key in ("name", "source", "targets"):
        if not given.get(key):
            raise ImpError(f"{where}: {key} is missing")
    if not NAME_OF_ENTRY.fullmatch(given["name"]):
        raise ImpError(f"{where}: name must be letters, digits, dots, dashes, underscores, since it becomes a file's")
    if not all(type(target) is str for target in given["targets"]):
        raise ImpError(f'{where}: targets is {given["targets"]!r}, expected texts like ["sm_120a", "sim"]')
    try:
        find_targets(tuple(given["targets"]))
        cache_format(given.get("kv", "f16"))
        form_of(given.get("exec", "auto"))
        prefill_of(given.get("prefill", "f16"))
        if "weights" in given:
            rounding_named(given["weights"])
    except ImpError as error:
        raise ImpError(f"{where}: {error}") from None
    return Entry(
        given["name"],
        given["source"],
        tuple(given["targets"]),
        given.get("context"),
        given.get("kv", "f16"),
        given.get("exec", "auto"),
        given.get("check", False),
        given.get("thin", False),
        given.get("weights"),
        given.get("prefill", "f16"),
    )
