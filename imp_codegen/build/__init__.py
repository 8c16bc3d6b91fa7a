"""Sources to code objects, by nvcc or g++: built in a temporary folder, kept in a cache by the hash of all inputs.

nvcc comes from the pip wheels (IMP_NVCC names another one), the cache lies in $IMP_CACHE_DIR, or $XDG_CACHE_HOME/imp,
or ~/.cache/imp. What the simulator's kernels are linked with is built once for all models, and kept there too: its
engine, and the ends of models with the same vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imp_codegen.build import cache, toolchain
from imp_codegen.build.failure import BuildError
from imp_codegen.build.processes import Processes, together
from imp_codegen.build.toolchain import Flavour, Unit, engine_sources
from imp_codegen.build.workplace import Workplace

__all__ = ["BuildError", "CodeObject", "Flavour", "Unit", "build", "engine_sources"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CodeObject:
    """A cubin or shared object. `log` is what the compiler said: registers and spills for nvcc."""

    code: bytes
    log: str
    cached: bool


def build(units: Sequence[Unit], progress: Progress = lambda done, total: None) -> tuple[CodeObject, ...]:
    """Code objects in the order of `units`; those not in the cache are built together, as many at a time as cores.

    `progress` is told how many of how many pieces are built. Raises BuildError where a compiler is missing or fails, or
    the cache cannot be used. Whatever ends it early also ends the compilers and removes their files.
    """
    keys = list(map(_key, units))
    before = {key: cache.find(key) for key in keys}
    missing = {key: unit for key, unit in zip(keys, units, strict=True) if before[key] is None}
    if missing:
        with cache.workshop() as folder:
            _build(missing, folder, progress)
    else:
        progress(len(units), len(units))
    return tuple(_object(key, before[key]) for key in keys)


def _object(key: str, before: cache.Entry | None) -> CodeObject:
    entry = before or cache.find(key)
    if entry is None:
        raise BuildError(f"the cache folder {cache.folder()} was emptied during the build; start it again")
    return CodeObject(entry.code, entry.log, before is not None)


def _key(unit: Unit) -> str:
    made_with = (*toolchain.flags(unit), *toolchain.ENGINE_FLAGS, unit.flavour)
    return toolchain.key(unit.compiler, *made_with, unit.source, unit.shared)


@dataclass(frozen=True, slots=True)
class _Part:
    """An object file that several simulated models are linked with: `file` is the engine's, or has `source`."""

    purpose: str
    flags: tuple[str, ...]
    file: str
    source: str = ""

    @property
    def key(self) -> str:
        return toolchain.key("g++", *self.flags, "part", self.file, self.source)


def _parts(unit: Unit) -> list[_Part]:
    engine = (
        _Part(f"the simulator's {path.name}", toolchain.ENGINE_FLAGS, f"include/imp/sim/{path.name}")
        for path in engine_sources(unit.flavour)
    )
    shared = _Part(f"the code for {unit.target}", toolchain.flags(unit), "model.cpp", unit.shared)
    return [*engine, *((shared,) if unit.shared else ())]


def _build(missing: Mapping[str, Unit], folder: Path, progress: Progress) -> None:
    """All compilers at once, then what is to be linked."""
    linked = {key: {part.key: part for part in _parts(unit)} for key, unit in missing.items() if unit.compiler == "g++"}
    parts = {key: part for each in linked.values() for key, part in each.items() if not cache.has(key)}
    places = {
        **{key: Workplace(folder / key, "g++", part.purpose) for key, part in parts.items()},
        **{key: Workplace(folder / key, unit.compiler, f"the code for {unit.target}") for key, unit in missing.items()},
    }
    tasks = [
        *(partial(_compile_part, key, part, places[key]) for key, part in parts.items()),
        *(partial(_compile, key, unit, places[key]) for key, unit in missing.items()),
    ]
    progress(0, len(tasks))
    together(tasks, lambda done: progress(done, len(tasks)))
    together([partial(_link, key, tuple(each), places[key]) for key, each in linked.items()])


def _compile_part(key: str, part: _Part, place: Workplace, processes: Processes) -> None:
    if part.source:
        (place.folder / part.file).write_text(part.source, "utf-8")
    place.run(processes, (*part.flags, "-c", part.file), "code")
    cache.keep(key, place.folder)


def _compile(key: str, unit: Unit, place: Workplace, processes: Processes) -> None:
    """A GPU's code as a whole, the simulator's up to the object file."""
    if unit.compiler == "nvcc":
        (place.folder / "model.cu").write_text(unit.source, "utf-8")
        place.run(processes, (*toolchain.flags(unit), "model.cu"), "code")
        cache.keep(key, place.folder)
    else:
        (place.folder / "model.cpp").write_text(unit.source, "utf-8")
        place.run(processes, (*toolchain.flags(unit), "-c", "model.cpp"), "model.o")


def _link(key: str, parts: Sequence[str], place: Workplace, processes: Processes) -> None:
    objects = map(cache.place, parts)
    place.run(processes, ("-shared", "-pthread", "-Wl,-z,defs", "model.o", *objects), "code")
    cache.keep(key, place.folder)
