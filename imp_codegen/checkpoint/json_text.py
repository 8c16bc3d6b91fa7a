"""JSON from strangers: bounded, no key twice, and every fault a line that names the file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from imp_codegen.checkpoint.contract import CheckpointError
from imp_codegen.checkpoint.metadata import Value

LONGEST_FILE = 1 << 24  # bytes; the largest config.json, with a list of quantised layers, has a few million


def read_file(path: Path, longest: int = LONGEST_FILE) -> bytes | None:
    """The bytes of a regular file of at most `longest` bytes; None if there is none of that name."""
    try:
        if not path.exists():
            return None
        if not path.is_file():
            raise CheckpointError(f"{path}: is no regular file")
        if (nbytes := path.stat().st_size) > longest:
            raise CheckpointError(f"{path}: has {nbytes} bytes, more than the {longest} that imp reads of such a file")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse_json(raw: bytes, where: str) -> object:
    """The value that `raw` spells. `where` begins an error's line: the file, and what of it.

    Infinity and NaN are read, bare and as transformers writes them, `{"__float__": "Infinity"}`.
    """

    def unique(pairs: list[tuple[str, object]]) -> object:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise CheckpointError(f"{where} has the key {shown_name(twice)} twice; one of them is wrong")
        if found.keys() == {"__float__"} and found["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(str(found["__float__"]))
        return found

    try:
        value: object = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be read as JSON: {error}") from None
    return value


def parse_object(raw: bytes, where: str) -> dict[str, object]:
    """The JSON object that `raw` spells."""
    value = parse_json(raw, where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return value


def shown_name(name: str) -> str:
    """A name of the file in an error: quoted, printable, not too long."""
    return repr(name if len(name) <= 64 else name[:61] + "...")


def keys_and_values(fields: Mapping[str, object], path: Path) -> dict[str, Value | None]:
    """A JSON object as keys and values for `Metadata`, what is in objects as `outer.inner`."""
    found: dict[str, Value | None] = {}
    for key, value in _flat(fields, ""):
        if key in found:
            raise CheckpointError(f"{path}: key {shown_name(key)} occurs twice")
        found[key] = value
    return found


def _flat(fields: Mapping[str, object], outer: str) -> Iterator[tuple[str, Value | None]]:
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{outer}{key}.")
        else:
            yield f"{outer}{key}", cast("Value | None", value)
