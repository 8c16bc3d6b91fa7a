"""A kernel before it is emitted: its C++ type, its arguments, what it costs. emit.py turns these into text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from imp_runtime.plan import Binding, CacheRead, Output, Tiles

Scalar = bool | int | float


@dataclass(frozen=True, slots=True)
class Config:
    """A constexpr config struct: every field, in the order of its declaration."""

    struct: str
    fields: tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, slots=True)
class Cpp:
    """A C++ type with template arguments: types, config structs and numbers."""

    name: str
    args: tuple[Cpp | Config | Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class Param:
    """A pointer parameter."""

    ctype: str
    binding: Binding


Argument: TypeAlias = "Param | Arguments | tuple[Argument, ...] | None"
"""What a field of an argument struct holds: a pointer, null, a struct, or so many of them as an array."""

Arguments: TypeAlias = Mapping[str, Argument]
"""An argument struct of a stage: every field by its name, in the order of its declaration."""


def flat(argument: Argument, name: str = "") -> Iterator[tuple[str, Param]]:
    """The pointers of an argument that are not null, each with its path: `out.y` is `out_y`, `w[1]` is `w_1`."""
    match argument:
        case None:
            return
        case Param():
            yield name, argument
        case Mapping():
            for field, part in argument.items():
                yield from flat(part, f"{name}_{field}" if name else field)
        case _:
            for i, part in enumerate(argument):
                yield from flat(part, f"{name}_{i}")


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One launch.

    `headers` lie below templates/include/imp, named without suffix. `args` is the stage's struct Args, which its
    run() takes. `overlap`: the stage waits for the kernel before it by itself. `resident`: its CTAs wait for one
    another, so the GPU must hold all of them at once; the entry then takes Args as it lies in memory. `indexed`: a
    resident kernel's Args is emitted, for the stage that indexes it, and is the first of its types. `per_sm`: CTAs
    that are to fit the registers of one multiprocessor. `phases`: steps inside it that each need all of the one
    before. `cache_reads`: what it reads of the cache. `tiles`: what it does on tensor cores, if most of its time is
    that.
    """

    name: str
    entry: str
    headers: tuple[str, ...]
    stage: Cpp
    args: Arguments
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    ops: tuple[str, ...]
    overlap: bool = False
    resident: bool = False
    indexed: bool = False
    per_sm: int = 1
    outputs: tuple[Output, ...] = ()
    phases: int = 1
    weight_bytes: int = 0
    other_bytes: int = 0
    cache_reads: tuple[CacheRead, ...] = ()
    tiles: Tiles | None = None
    flops: int = 0

    def params(self) -> tuple[tuple[str, Param], ...]:
        """The entry's parameters by name: every argument that is not null."""
        return tuple(flat(self.args))


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program before emission. `rows`: the most that one run takes; the others are those of the plan's Program."""

    name: str
    rows: int
    kernels: tuple[KernelSpec, ...]
    worth: int = 0
    first_us: float = 0
    last_us: float = 0
