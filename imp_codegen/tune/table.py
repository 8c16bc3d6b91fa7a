"""Tables of choices: JSON, one entry a line. The shipped ones lie beside their cards, a person's own in ~/.config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from imp_codegen import cards
from imp_codegen.targets import Target, targets
from imp_codegen.tune.stage import Choice
from imp_codegen.tune.step import StepChoice
from imp_runtime.errors import ImpError
from imp_runtime.plan import MAX_SMS, Form

_MOST_WARPS = 32  # of a CTA
_MOST_SLOTS = 64
_MOST_IN_FLIGHT = 256
_MOST_LANES = 32  # of a warp
_STEP_KEYS = {"graph": {"form", "why"}, "persistent": {"form", "in_flight", "lanes", "why"}}


class TuningError(ImpError):
    """A tuning table that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stage's choice and, in words, what speaks for it."""

    choice: Choice
    why: str


@dataclass(frozen=True, slots=True)
class StepEntry:
    """How a decode step is fastest: as one kernel, with which numbers, or (None) as a graph; and what speaks for it."""

    choice: StepChoice | None
    why: str

    @property
    def form(self) -> Form:
        """The faster form."""
        return "graph" if self.choice is None else "persistent"


@dataclass(frozen=True, slots=True)
class Table:
    """The choices for one target, by `Stage.name`, and of whole steps by `Step.name`.

    `source`: how the table was made; `origin`: where it was read; `sms`: multiprocessors of the cards that it is for,
    as many as the target has by default if None. On another card other choices are fast.
    """

    target: str
    source: str
    entries: Mapping[str, Entry]
    origin: str
    steps: Mapping[str, StepEntry] = field(default_factory=dict)
    sms: int | None = None

    @property
    def cards(self) -> Target:
        """The target, with as many multiprocessors as those cards have."""
        target = targets()[self.target]
        return target.sized(self.sms or target.sms)

    def fits(self, target: Target) -> bool:
        """Whether it is for such cards."""
        return (self.target, self.cards.sms) == (target.name, target.sms)

    def to_json(self) -> str:
        """One entry a line, sorted, so that two versions can be compared by eye."""
        stages = {name: {**asdict(entry.choice), "why": entry.why} for name, entry in self.entries.items()}
        steps = {
            name: {"form": entry.form, **(asdict(entry.choice) if entry.choice else {}), "why": entry.why}
            for name, entry in self.steps.items()
        }
        parts = [
            f'"target": {json.dumps(self.target)}',
            *([f'"sms": {self.cards.sms}'] if self.cards != targets()[self.target] else []),
            f'"source": {json.dumps(self.source)}',
            f'"entries": {_lines(stages)}',
            *([f'"steps": {_lines(steps)}'] if steps else []),
        ]
        return "{\n  " + ",\n  ".join(parts) + "\n}\n"


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


def choose_step(tables: Sequence[Table], step: str) -> tuple[StepEntry, str] | None:
    """What the first table that knows the step says, and where that table was read; None if no table does."""
    return next(((table.steps[step], table.origin) for table in tables if step in table.steps), None)


def shipped() -> tuple[Table, ...]:
    """The tables that come with imp."""
    return tuple(read_table(path, "shipped") for path in sorted(Path(cards.__file__).parent.glob("*.json")))


def user_path(target: str) -> Path:
    """Where a person's own table for a target lies: $XDG_CONFIG_HOME/imp/tuning, else ~/.config/imp/tuning."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "imp" / "tuning" / f"{target}.json"


def read_table(path: Path, origin: str | None = None) -> Table:
    """Read and check; TuningError says what is wrong in which entry. `origin` is the path unless it is given."""
    try:
        raw = json.loads(path.read_text("utf-8"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise TuningError(f"{path}: cannot be read as a tuning table: {error}") from None
    if not isinstance(raw, dict) or raw.keys() - {"steps", "sms"} != {"target", "source", "entries"}:
        raise TuningError(f"{path}: must be an object with target, source and entries; write one with imp tune")
    target, source, entries, steps = raw["target"], raw["source"], raw["entries"], raw.get("steps", {})
    if not isinstance(target, str) or not isinstance(source, str):
        raise TuningError(f"{path}: target and source must be strings; write one with imp tune")
    if not isinstance(entries, dict) or not isinstance(steps, dict):
        raise TuningError(f"{path}: entries and steps must be objects; write one with imp tune")
    if target not in targets():
        raise TuningError(f"{path}: target is {target!r}; known: {', '.join(sorted(targets()))}")
    checked = {name: _entry(f"{path}: {name}", item) for name, item in entries.items()}
    checked_steps = {name: _step_entry(f"{path}: {name}", item) for name, item in steps.items()}
    sms = _number(str(path), raw, "sms", MAX_SMS) if "sms" in raw else None
    return Table(target, source, checked, origin or str(path), checked_steps, sms)


def write_table(path: Path, table: Table) -> None:
    """Write `table` over what is at `path`: its entries replace those of the same stages and steps."""
    merged = table
    if path.exists():
        old = read_table(path)
        if not old.fits(table.cards):
            raise TuningError(f"{path}: is for {old.cards}, the new entries are for {table.cards}; name another")
        merged = replace(table, entries={**old.entries, **table.entries}, steps={**old.steps, **table.steps})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(merged.to_json(), "utf-8")
    temporary.replace(path)


def _lines(entries: Mapping[str, object]) -> str:
    lines = [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items())]
    return "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"


def _entry(where: str, raw: object) -> Entry:
    if not isinstance(raw, dict) or raw.keys() != {"warps", "slots", "why"} or not isinstance(raw["why"], str):
        raise TuningError(f"{where}: must be an object with warps, slots and why; measure it again with imp tune")
    warps, slots = (_number(where, raw, *limit) for limit in (("warps", _MOST_WARPS), ("slots", _MOST_SLOTS)))
    return Entry(Choice(warps, slots), raw["why"])


def _step_entry(where: str, raw: object) -> StepEntry:
    keys = _STEP_KEYS.get(str(raw.get("form"))) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or raw.keys() != keys or not isinstance(raw["why"], str):
        raise TuningError(
            f"{where}: must be an object with form graph and why, or form persistent, in_flight, lanes and why; "
            "measure it again with imp tune"
        )
    if raw["form"] == "graph":
        return StepEntry(None, raw["why"])
    limits = (("in_flight", _MOST_IN_FLIGHT), ("lanes", _MOST_LANES))
    return StepEntry(StepChoice(*(_number(where, raw, *limit) for limit in limits)), raw["why"])


def _number(where: str, raw: Mapping[str, object], name: str, most: int) -> int:
    value = raw[name]
    if type(value) is not int or not 1 <= value <= most:
        raise TuningError(f"{where}: {name} is {value!r}, expected 1 to {most}; measure it again with imp tune")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys differ: of two lines for one stage, which one counts would be a secret."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in [other for other, _ in pairs[:i]])
        raise ValueError(f"{twice!r} is there twice")
    return found
