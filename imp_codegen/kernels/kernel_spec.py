"""A kernel before it is emitted: its C++ type, its arguments, what it costs. emit.py turns these into text."""

from __future__ import annotations

from dataclasses import dataclass

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
    """A pointer parameter, or a null pointer where the stage does not use it."""

    ctype: str
    name: str
    binding: Binding | None


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One launch.

    `headers` lie below templates/include/imp, named without suffix; `call` holds the arguments of the stage's run():
    parameters, and tuples for its argument structs. `overlap`: the stage waits for the kernel before it by itself.
    `resident`: its CTAs wait for one another, so the GPU must hold all of them at once. `per_sm`: CTAs that are to fit
    the registers of one multiprocessor. `phases`: steps inside it that each need all of the one before. `cache_reads`:
    what it reads of the cache. `tiles`: what it does on tensor cores, if most of its time is that.
    """

    name: str
    entry: str
    headers: tuple[str, ...]
    stage: Cpp
    call: tuple[Param | tuple[Param, ...], ...]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    ops: tuple[str, ...]
    overlap: bool = False
    resident: bool = False
    per_sm: int = 1
    outputs: tuple[Output, ...] = ()
    phases: int = 1
    weight_bytes: int = 0
    other_bytes: int = 0
    cache_reads: tuple[CacheRead, ...] = ()
    tiles: Tiles | None = None
    flops: int = 0

    def params(self) -> tuple[Param, ...]:
        """The entry's parameters: every argument that is not null."""
        flat = [p for item in self.call for p in (item if isinstance(item, tuple) else (item,))]
        return tuple(p for p in flat if p.binding is not None)


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program before emission. `tokens` is the most that one run takes."""

    name: str
    tokens: int
    kernels: tuple[KernelSpec, ...]
