"""The weights of an artifact by kind: format, layout, bytes, and which kernels run them in each kind of program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imp_runtime.plan import Kernel, Plan, Plane, Program, TargetPlan

_PLANE = "weights/"
_LAYER = re.compile(r"^blk\.\d+\.", re.ASCII)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel of a program with its predicted time, in microseconds."""

    kernel: Kernel
    us: float | None


@dataclass(frozen=True, slots=True)
class Use:
    """Kernels of a program that read weights of a kind: their entries, and the predicted time of all their launches.

    A kernel that reads several kinds counts for each of them.
    """

    entries: tuple[str, ...]
    us: float | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Weights of one name, format and layout in all layers. `uses`: by program."""

    name: str
    format: str
    layout: str
    count: int
    nbytes: int
    uses: Mapping[str, Use]


def programs_of(target: TargetPlan) -> dict[str, Program]:
    """Those that tell how weights are run: steps of one sequence, of several where these go together, and prompts."""
    by_name = {program.name: program for program in target.programs}
    shown = {"a step": by_name.get("step_r1") or by_name["forward_r1"]}
    together = [program for program in target.programs if program.worth]
    if together:
        shown["steps together"] = min(together, key=lambda program: program.rows)
    chunks = [program for program in target.programs if program.name.startswith("forward_r")]
    shown["a prompt"] = max(chunks, key=lambda program: program.rows)
    return shown


def kinds_of(plan: Plan, programs: Mapping[str, Sequence[Launch]]) -> list[Kind]:
    """Every kind of matrix, in the order of the planes. `programs`: the launches of some, by name."""
    planes: dict[tuple[str, str, str], list[Plane]] = {}
    for plane in plan.planes:
        if plane.rows > 1:
            planes.setdefault((_LAYER.sub("blk.*.", plane.name), plane.format, plane.layout), []).append(plane)
    return [
        Kind(
            name,
            fmt,
            layout,
            len(group),
            sum(plane.nbytes for plane in group),
            {of: _use({plane.name for plane in group}, launches) for of, launches in programs.items()},
        )
        for (name, fmt, layout), group in planes.items()
    ]


def _use(planes: set[str], launches: Sequence[Launch]) -> Use:
    names = {_PLANE + plane for plane in planes}
    reading = [launch for launch in launches if any(arg.buffer in names for arg in launch.kernel.args)]
    times = [launch.us for launch in reading if launch.us is not None]
    return Use(tuple(dict.fromkeys(launch.kernel.entry for launch in reading)), sum(times) if times else None)
