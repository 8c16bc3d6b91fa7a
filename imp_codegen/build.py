"""Sources to code objects: ninja with nvcc or g++, in a temporary folder, kept in a cache by the hash of all inputs.

The only importer of subprocess. nvcc comes from the pip wheels (IMP_NVCC names another one), the cache lies in
$IMP_CACHE_DIR, or $XDG_CACHE_HOME/imp, or ~/.cache/imp.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imp_codegen.emit import headers_of, render, templates
from imp_runtime.errors import ImpError

Compiler = Literal["nvcc", "g++"]
_ISA = {"nvcc": "ptx", "g++": "sim"}
_CHECK_POLLS = 20_000_000  # that a GPU's thread looks in vain before it traps: seconds, where a step takes milliseconds


class BuildError(ImpError):
    """A compiler is missing or rejects the emitted source."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One code object to build: `flavour` "check" watches the simulator's threads, and lets a GPU's wait no longer."""

    target: str
    compiler: Compiler
    source: str
    flavour: Literal["plain", "check"] = "plain"


@dataclass(frozen=True, slots=True)
class CodeObject:
    """A cubin or shared object. `log` is what the compiler said: registers and spills for nvcc."""

    code: bytes
    log: str
    cached: bool


def cache_folder() -> Path:
    """Where code objects are kept."""
    if "IMP_CACHE_DIR" in os.environ:
        return Path(os.environ["IMP_CACHE_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "imp"


def build(units: tuple[Unit, ...]) -> tuple[CodeObject, ...]:
    """Code objects in the order of `units`; those not in the cache are built together, as many at a time as cores."""
    keys = [_key(unit) for unit in units]
    missing = {key: unit for key, unit in zip(keys, units, strict=True) if not _cached(key).is_dir()}
    if missing:
        _run_ninja(missing)
    return tuple(
        CodeObject((_cached(key) / "code").read_bytes(), (_cached(key) / "log").read_text(), key not in missing)
        for key in keys
    )


def _cached(key: str) -> Path:
    return cache_folder() / key[:2] / key


def _key(unit: Unit) -> str:
    """Hash of source, headers, flags and compiler version."""
    digest = hashlib.sha256()
    version = _version(str(_find_compiler(unit.compiler)))
    for part in (version, " ".join(_flags(unit)), unit.flavour, unit.source):
        digest.update(part.encode() + b"\0")
    for path in headers_of(_ISA[unit.compiler]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout


@functools.cache
def _find_compiler(compiler: Compiler) -> Path:
    if compiler == "g++":
        found = shutil.which("g++")
        if found is None:
            raise BuildError(
                "g++ is not installed; install it (apt install g++), or compile with --target sm_120a only"
            )
        return Path(found)
    if "IMP_NVCC" in os.environ:
        path = Path(os.environ["IMP_NVCC"])
        if not path.is_file():
            raise BuildError(f"IMP_NVCC names {path}, which is not a file")
        return path
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("cu*/bin/nvcc"), reverse=True):
            return path
    raise BuildError("nvcc is not installed; run: pip install nvidia-cuda-nvcc, or set IMP_NVCC to the path of an nvcc")


def _flags(unit: Unit) -> tuple[str, ...]:
    if unit.compiler == "nvcc":
        architecture = unit.target.removeprefix("sm_")
        return (
            "-std=c++20",
            "-O3",
            "-cubin",
            "--expt-relaxed-constexpr",
            "--Werror",
            "all-warnings",
            "-Xptxas",
            "-v",
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            *((f"-DIMP_POLL_LIMIT={_CHECK_POLLS}",) if unit.flavour == "check" else ()),
        )
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")  # nvcc's pragmas
    machine = ("-march=x86-64-v3",) if platform.machine() == "x86_64" else ()
    common = ("-std=c++20", "-ffp-contract=off", "-fPIC", "-pthread", *machine, *warnings)
    # The instrumentation alone: the simulator's check_*.cpp answer its calls, not the compiler's runtime library.
    return (*common, "-O1", "-g", "-fsanitize=thread,alignment") if unit.flavour == "check" else (*common, "-O2")


def _run_ninja(missing: Mapping[str, Unit]) -> None:
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"the cache folder {cache} cannot be made ({error.strerror}); set IMP_CACHE_DIR") from None
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as name:
        folder = Path(name)
        rules = [_rule(key, unit, folder) for key, unit in missing.items()]
        (folder / "build.ninja").write_text(render("build.ninja.j2", {"rules": rules}))
        ninja = shutil.which("ninja") or str(_ninja_of_the_wheel())
        done = subprocess.run([ninja, "-C", name, "-f", "build.ninja"], capture_output=True, text=True)
        if done.returncode:
            raise BuildError(
                f"the emitted source does not compile:\n{_said(folder, missing)}{done.stdout}{done.stderr}"
            )
        for key in missing:
            for source in (folder / key).glob("model.*"):
                source.unlink()
            _cached(key).parent.mkdir(parents=True, exist_ok=True)
            try:
                (folder / key).rename(_cached(key))
            except OSError:  # another process was first: its folder has the same content
                if not _cached(key).is_dir():
                    raise


def _said(folder: Path, missing: Mapping[str, Unit]) -> str:
    logs = [folder / key / "log" for key in missing]
    return "".join(log.read_text() for log in logs if log.is_file())


def _ninja_of_the_wheel() -> Path:
    import ninja

    return Path(ninja.BIN_DIR) / "ninja"


def _rule(key: str, unit: Unit, folder: Path) -> dict[str, object]:
    (folder / key).mkdir()
    source = folder / key / ("model.cu" if unit.compiler == "nvcc" else "model.cpp")
    source.write_text(unit.source)
    output = folder / key / "code"
    log = f"> {folder / key / 'log'} 2>&1"
    if unit.compiler == "nvcc":
        include = templates() / "include"
        flags = " ".join((*_flags(unit), f"-I{include}", f"-I{include / 'imp' / 'ptx'}"))
        command = f"{_find_compiler('nvcc')} {flags} {source} -o {output} {log}"
    else:
        command = f"({' && '.join(_sim_commands(unit, source, output))}) {log}"
    return {"name": f"{unit.target}-{unit.flavour}-{key[:8]}", "command": command, "output": output, "inputs": [source]}


def engine_sources(flavour: Literal["plain", "check"]) -> list[Path]:
    """What the simulator's kernels are linked with."""
    folder = templates() / "include" / "imp" / "sim"
    return sorted([*folder.glob("engine_*.cpp"), *(folder.glob("check_*.cpp") if flavour == "check" else ())])


def _sim_commands(unit: Unit, source: Path, output: Path) -> list[str]:
    """The kernels with their flavour's flags, the engine always with the plain ones, and the link."""
    include = templates() / "include"
    compiler = f"{_find_compiler('g++')} -I{include} -I{include / 'imp' / 'sim'}"
    plain = " ".join(_flags(Unit(unit.target, unit.compiler, unit.source)))
    parts = engine_sources(unit.flavour)
    objects = [output.parent / f"{name}.o" for name in ("model", *(part.name for part in parts))]
    return [
        f"{compiler} {' '.join(_flags(unit))} -c {source} -o {objects[0]}",
        *(f"{compiler} {plain} -c {part} -o {out}" for part, out in zip(parts, objects[1:], strict=True)),
        f"{compiler} -shared -pthread -Wl,-z,defs {' '.join(map(str, objects))} -o {output}",
        f"rm {' '.join(map(str, objects))}",
    ]
