"""`imp diff`: in what two artifacts differ. Executes nothing of either."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from imp_runtime.artifact import CHECKSUMS, Artifact
from imp_runtime.plan import Kernel, Plan, Program, TargetPlan
from imp_server.commands.inspect_numbers import card_of, decode_speed, launches_of, prompt_speed
from imp_server.console.tables import show, table

NAME = "diff"
_LAYER = re.compile(r"\blayers\.\d+\.", re.ASCII)
_ENTRY = re.compile(r'^extern "C" .*?\b(\w+)\($', re.ASCII | re.MULTILINE)
_LISTED = ("planes", "targets")  # fields of a plan that have tables of their own
Pair = tuple[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A kernel of a program that one artifact lacks (`added`, `removed`), or of which `fields` differ."""

    target: str
    program: str
    kernel: str
    what: str
    fields: tuple[str, ...] = ()


def command(
    old: Annotated[Path, typer.Argument(metavar="A.impc")],
    new: Annotated[Path, typer.Argument(metavar="B.impc")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, machine-readable.")] = False,
) -> int:
    """Compare two compiled models: plan, kernels, sizes, predicted time. Exits with 0 if they are the same, else 1."""
    a, b = Artifact.open(old, thin=True), Artifact.open(new, thin=True)
    facts, changes = facts_of(a, b), changes_of(a, b)
    sizes, times = sizes_of(a, b), times_of(a.plan, b.plan)
    differ = bool(facts or changes or sizes)
    if as_json:
        document = {
            "equal": not differ,
            "facts": _named(facts),
            "kernels": [dataclasses.asdict(change) for change in changes],
            "contents": _named(sizes),
            "predicted": _named(times),
        }
        print(json.dumps(document, indent=2))
    elif differ:
        of = ("", a.path.name, b.path.name)
        shown = [table("plan and metadata", of, _rows(facts), right=3)] if facts else []
        if changes:
            shown.append(
                table("kernels", ("target", "program", "kernel", "", "what differs"), _grouped(changes), right=5)
            )
        if sizes:
            shown.append(table("contents that differ, in bytes", of, _rows(sizes)))
        if times:
            shown.append(table("predicted", of, _rows(times)))
        show(*shown)
    return int(differ)


def facts_of(a: Artifact, b: Artifact) -> dict[str, Pair]:
    """What differs of the plans' and the targets' own fields, and of the metadata."""
    return _different(_facts(a), _facts(b))


def _facts(artifact: Artifact) -> dict[str, object]:
    plan = artifact.plan
    facts: dict[str, object] = {
        f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in _LISTED
    }
    facts |= {f"metadata {name}": value for name, value in artifact.metadata.items()}
    for target in plan.targets:
        listed = ("target", "programs", "fallback", "buffers")
        facts |= {
            f"{target.target} {f.name}": getattr(target, f.name)
            for f in dataclasses.fields(target)
            if f.name not in listed
        }
        facts |= {f"{target.target} buffer {buffer.name}": buffer.nbytes for buffer in target.buffers}
        for program in _programs(target).items():
            name, of = program
            facts[f"{target.target} {name}"] = dataclasses.astuple(dataclasses.replace(of, kernels=()))[1:]
    return facts | {f"plane {p.name}": (p.format, p.layout, p.rows, p.cols) for p in plan.planes}


def _programs(target: TargetPlan) -> dict[str, Program]:
    return {p.name: p for p in target.programs} | {f"{p.name} (fallback)": p for p in target.fallback}


def changes_of(a: Artifact, b: Artifact) -> list[Change]:
    """Kernels added, removed and changed, of the targets that both have."""
    found = []
    others = {target.target: target for target in b.plan.targets}
    for target in a.plan.targets:
        if target.target not in others:
            continue
        codes = _definitions(a, target.target), _definitions(b, target.target)
        old, new = _programs(target), _programs(others[target.target])
        for program in dict.fromkeys((*old, *new)):
            before = {k.name: k for k in old[program].kernels} if program in old else {}
            after = {k.name: k for k in new[program].kernels} if program in new else {}
            for name in dict.fromkeys((*before, *after)):
                if name not in after:
                    found.append(Change(target.target, program, name, "removed"))
                elif name not in before:
                    found.append(Change(target.target, program, name, "added"))
                elif fields := _fields(before[name], after[name], *codes):
                    found.append(Change(target.target, program, name, "changed", fields))
    return found


def _fields(a: Kernel, b: Kernel, ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, ...]:
    """The fields in which two kernels differ; `code`: the source that was emitted for them, whatever its number."""
    names = [f.name for f in dataclasses.fields(a) if f.name not in ("name", "entry")]
    different = [name for name in names if getattr(a, name) != getattr(b, name)]
    return (*different, *(["code"] if ours.get(a.entry) != theirs.get(b.entry) else []))


def _definitions(artifact: Artifact, target: str) -> dict[str, str]:
    """The emitted source of each entry, without comments and with `entry` in place of its name."""
    name = f"source/{target}.cu"
    text = artifact.read(name).decode(errors="replace") if artifact.has(name) else ""
    blocks = re.split(r"\n\n(?=//)", text)
    return {
        match[1]: re.sub(rf"\b{match[1]}(_t)?\b", r"entry\1", re.sub(r"^//.*\n", "", block, flags=re.MULTILINE))
        for block in blocks
        for match in _ENTRY.finditer(re.sub(r"\s*\(\n", "(\n", block))
    }


def sizes_of(a: Artifact, b: Artifact) -> dict[str, Pair]:
    """Bytes of each blob and plane whose content differs, None where there is none; checksums say whether it does."""
    old, new = ({name: (size, of.checksum(name)) for name, size in of.names() if name != CHECKSUMS} for of in (a, b))
    return {name: tuple(pair and pair[0] for pair in pairs) for name, pairs in _different(old, new).items()}


def times_of(a: Plan, b: Plan) -> dict[str, Pair]:
    """Predicted, for the card that each target was made for: tokens per second, and microseconds of each program."""
    old, new = _times(a), _times(b)
    return {name: (old.get(name), new.get(name)) for name in dict.fromkeys((*old, *new))}


def _times(plan: Plan) -> dict[str, float]:
    times: dict[str, float] = {}
    for target in plan.targets:
        card = card_of(target)
        launches = {program.name: launches_of(program, card) for program in target.programs}
        for what, rate in (("decode", decode_speed(launches)), ("prompt", prompt_speed(target, launches))):
            if rate is not None:
                times[f"{target.target} {what}, tok/s"] = rate
        for name, each in launches.items():
            known = [launch.us for launch in each if launch.us is not None]
            if known:
                times[f"{target.target} {name}, us"] = sum(known)
    return times


def _different(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, Pair]:
    pairs = {name: (old.get(name), new.get(name)) for name in dict.fromkeys((*old, *new))}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def _named(pairs: Mapping[str, Pair]) -> dict[str, dict[str, Any]]:
    return {name: {"a": a, "b": b} for name, (a, b) in pairs.items()}


def _rows(pairs: Mapping[str, Pair]) -> Iterable[tuple[str, str, str]]:
    def said(value: object) -> str:
        if value is None:
            return "-"
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

    return ((name, said(a), said(b)) for name, (a, b) in pairs.items())


def _grouped(changes: Iterable[Change]) -> list[tuple[str, ...]]:
    """A row for alike changes of all layers."""
    groups: dict[tuple[str, ...], int] = {}
    for each in changes:
        row = (each.target, each.program, _LAYER.sub("layers.*.", each.kernel), each.what, ", ".join(each.fields))
        groups[row] = groups.get(row, 0) + 1
    return [(*row[:3], f"{row[3]} ({count})" if count > 1 else row[3], row[4]) for row, count in groups.items()]
