"""Tables of choices: JSON with one stage a line. The shipped ones lie beside this file, a person's own in ~/.config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imp_codegen.targets import targets
from imp_codegen.tuning.stage import Choice
from imp_runtime.errors import ImpError

_MOST_WARPS = 32  # of a CTA
_MOST_SLOTS = 64


class TuningError(ImpError):
    """A tuning table that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stage's choice and, in words, what speaks for it."""

    choice: Choice
    why: str


@dataclass(frozen=True, slots=True)
class Table:
    """The choices for one target, by `Stage.name`. `source`: how the table was made; `origin`: where it was read."""

    target: str
    source: str
    entries: Mapping[str, Entry]
    origin: str

    def to_json(self) -> str:
        """One entry a line, sorted, so that two versions can be compared by eye."""
        lines = [
            f"    {json.dumps(name)}: "
            + json.dumps({"warps": entry.choice.warps, "slots": entry.choice.slots, "why": entry.why})
            for name, entry in sorted(self.entries.items())
        ]
        entries = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        head = f'  "target": {json.dumps(self.target)},\n  "source": {json.dumps(self.source)},\n'
        return "{\n" + head + f'  "entries": {entries}\n}}\n'


@dataclass(frozen=True, slots=True)
class Chosen:
    """The choice for a stage, and where it came from: a table's origin, or "formula"."""

    choice: Choice
    origin: str


def choose(tables: Sequence[Table], stage: str, otherwise: Choice) -> Chosen:
    """The choice of the first table that knows the stage, else `otherwise`."""
    for table in tables:
        if stage in table.entries:
            return Chosen(table.entries[stage].choice, table.origin)
    return Chosen(otherwise, "formula")


def shipped() -> tuple[Table, ...]:
    """The tables that come with imp."""
    return tuple(read_table(path, "shipped") for path in sorted(Path(__file__).parent.glob("*.json")))


def user_path(target: str) -> Path:
    """Where a person's own table for a target lies: $XDG_CONFIG_HOME/imp/tuning, else ~/.config/imp/tuning."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "imp" / "tuning" / f"{target}.json"


def read_table(path: Path, origin: str | None = None) -> Table:
    """Read and check; TuningError says what is wrong in which entry. `origin` is the path unless it is given."""
    try:
        raw = json.loads(path.read_text(), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise TuningError(f"{path}: cannot be read as a tuning table: {error}") from None
    if not isinstance(raw, dict) or raw.keys() != {"target", "source", "entries"}:
        raise TuningError(f"{path}: must be an object with target, source and entries; write one with imp tune")
    target, source, entries = raw["target"], raw["source"], raw["entries"]
    if not isinstance(target, str) or not isinstance(source, str) or not isinstance(entries, dict):
        raise TuningError(f"{path}: target and source must be strings, entries an object; write one with imp tune")
    if target not in targets():
        raise TuningError(f"{path}: target is {target!r}; known: {', '.join(sorted(targets()))}")
    checked = {name: _entry(f"{path}: {name}", item) for name, item in entries.items()}
    return Table(target, source, checked, origin or str(path))


def write_table(path: Path, table: Table) -> None:
    """Write `table` over what is at `path`: its entries replace those of the same stages, the others stay."""
    old: Mapping[str, Entry] = {}
    if path.exists():
        before = read_table(path)
        if before.target != table.target:
            raise TuningError(f"{path}: is for {before.target}, the new entries are for {table.target}; name another")
        old = before.entries
    merged = Table(table.target, table.source, {**old, **table.entries}, table.origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(merged.to_json())
    temporary.replace(path)


def _entry(where: str, raw: object) -> Entry:
    if not isinstance(raw, dict) or raw.keys() != {"warps", "slots", "why"} or not isinstance(raw["why"], str):
        raise TuningError(f"{where}: must be an object with warps, slots and why; measure it again with imp tune")
    for name, most in (("warps", _MOST_WARPS), ("slots", _MOST_SLOTS)):
        if type(raw[name]) is not int or not 1 <= raw[name] <= most:
            raise TuningError(f"{where}: {name} is {raw[name]!r}, expected 1 to {most}; measure it again with imp tune")
    return Entry(Choice(raw["warps"], raw["slots"]), raw["why"])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys differ: of two lines for one stage, which one counts would be a secret."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in [other for other, _ in pairs[:i]])
        raise ValueError(f"{twice!r} is there twice")
    return found
