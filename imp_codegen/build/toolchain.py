"""The compilers: where they are, which they are, what they are told, and what of the environment they see."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imp_codegen import device_code
from imp_codegen.build.failure import BuildError, first_error
from imp_codegen.build.processes import Processes

Compiler = Literal["nvcc", "g++"]
Flavour = Literal["plain", "check"]
# The version in what --version says, and the oldest that makes of sources what they say: ptxas 13.0 gives registers
# of wgmma's left operand, which live on over a loop, to others there (architecture.md, what compilers make of it).
_VERSION = {"nvcc": r"release (\d+(?:\.\d+)*)", "g++": r"\) (\d+(?:\.\d+)*)"}
_OLDEST = {"nvcc": (13, 1), "g++": (11, 0)}
_NEWER = {"nvcc": "pip install --upgrade nvidia-cuda-nvcc", "g++": "apt install g++"}
_ISA = {"nvcc": "ptx", "g++": "sim"}
_CHECK_POLLS = 20_000_000  # that a GPU's thread looks in vain before it traps: seconds, where a step takes milliseconds
# Compilers obey dozens of variables (CPATH, GCC_EXEC_PREFIX, INCLUDES, ...). These remain: what it takes to run them,
# and nvcc's own, by which people choose its host compiler. Those count for the cache's key.
_STEERING = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN")
_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", *_STEERING)


@dataclass(frozen=True, slots=True)
class Unit:
    """One code object to build: `flavour` "check" watches the simulator's threads, and lets a GPU's wait no longer.

    `shared`: what is compiled by itself and kept, as other units have the same; g++ only.
    """

    target: str
    compiler: Compiler
    source: str
    flavour: Flavour = "plain"
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A compiler that runs."""

    name: Compiler
    path: Path
    banner: str  # all that --version says

    @property
    def version(self) -> str:
        """As people write it."""
        match = re.search(_VERSION[self.name], self.banner)
        assert match
        return match[1]


def find(name: Compiler) -> Tool:
    """The compiler of this machine. BuildError where there is none, or it is too old, or what is named is none."""
    path, called = _nvcc() if name == "nvcc" else _gxx()
    banner = _banner(path, called)
    if not re.search(_VERSION[name], banner):
        raise BuildError(f"{called} {path}, which does not answer --version as {name} does")
    tool = Tool(name, path, banner)
    if tuple(map(int, tool.version.split("."))) < _OLDEST[name]:
        least = ".".join(map(str, _OLDEST[name]))
        raise BuildError(f"{called} {path}, version {tool.version}; imp needs {name} {least} or newer: {_NEWER[name]}")
    return tool


def _gxx() -> tuple[Path, str]:
    found = shutil.which("g++")
    if found is None:
        raise BuildError("g++ is not installed; install it (apt install g++), or compile with --target sm_120a only")
    return Path(found).absolute(), "g++ is"


def _nvcc() -> tuple[Path, str]:
    if given := os.environ.get("IMP_NVCC"):
        path = Path(given).absolute()
        if not path.is_file():
            raise BuildError(f"IMP_NVCC names {path}, which is not a file; give the path of an nvcc")
        return path, "IMP_NVCC names"
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("cu*/bin/nvcc"), reverse=True):
            return path, "the installed nvcc is"
    raise BuildError("nvcc is not installed; run: pip install nvidia-cuda-nvcc, or set IMP_NVCC to the path of an nvcc")


@functools.cache
def _banner(path: Path, called: str) -> str:
    try:
        done = Processes().run((path, "--version"), path.parent, environment())
    except OSError as error:
        raise BuildError(f"{called} {path}, which cannot be run ({error.strerror})") from None
    if done.status:
        raise BuildError(f"{called} {path}, which does not run ({first_error(done)})")
    return done.log


def environment() -> dict[str, str]:
    """What a compiler sees: English messages, temporary files where it runs, and of the user's what is in `_KEPT`."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C", "TMPDIR": "."}


def flags(unit: Unit) -> tuple[str, ...]:
    """What the compiler is told about a unit, but for its files. Relative to the folder where it runs."""
    if unit.compiler == "nvcc":
        architecture = unit.target.removeprefix("sm_")
        return (
            "-std=c++20",
            "-Iinclude",
            "-Iinclude/imp/ptx",
            "-O3",
            "-cubin",
            "--expt-relaxed-constexpr",
            "-fmad=false",  # as the simulator: what is one operation is written as one, so that both forms round alike
            "--Werror",
            "all-warnings",
            "-Xptxas",
            "-v",
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            *((f"-DIMP_POLL_LIMIT={_CHECK_POLLS}",) if unit.flavour == "check" else ()),
        )
    # -O1 compiles the demo in 5.0 s, -O2 in 9.6; its steps then take as long, its prompts 40 % longer. The
    # instrumentation is there alone: the simulator's check_*.cpp answer its calls, not the compiler's runtime library.
    # Lines are all that it says of places, so -g1, which takes 2/3 of the time of -g.
    return (*_COMMON, "-O1", *(("-g1", "-fsanitize=thread,alignment") if unit.flavour == "check" else ()))


_COMMON = (
    "-std=c++20",
    "-Iinclude",
    "-Iinclude/imp/sim",
    "-ffp-contract=off",
    "-fPIC",
    "-fno-gnu-unique",  # unique symbols would keep a library loaded for ever
    "-pthread",
    *(("-march=x86-64-v3",) if platform.machine() == "x86_64" else ()),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # nvcc's pragmas
)
ENGINE_FLAGS = (*_COMMON, "-O2")  # the engine is never instrumented


def engine_sources(flavour: Flavour) -> list[Path]:
    """What the simulator's kernels are linked with."""
    folder = device_code.templates() / "include" / "imp" / "sim"
    return sorted([*folder.glob("engine_*.cpp"), *(folder.glob("check_*.cpp") if flavour == "check" else ())])


def key(compiler: Compiler, *parts: str) -> str:
    """Hash of `parts`, and of all else that decides what a compiler makes: headers, version, machine, environment."""
    digest = hashlib.sha256()
    steering = (f"{name}={os.environ.get(name, '')}" for name in _STEERING) if compiler == "nvcc" else ()
    for part in (find(compiler).banner, platform.machine(), *steering, *parts):
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    for path in _headers(_ISA[compiler]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _headers(isa: str) -> Iterable[Path]:
    """Every header that a source may include, sorted, and the simulator's engine."""
    include = device_code.templates() / "include" / "imp"
    folders = (include / "layout", include / "stage", include / isa)
    return sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
