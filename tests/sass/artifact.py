"""Models whose code is what ptxas makes for a GPU, for the simulator to run."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from imp_codegen import compiler
from imp_codegen.build import CodeObject, Unit, build
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from model_checks import quiet
from sass.translate import translate

MACHINES = (Path(__file__).parents[1] / "ptx" / "machine.h", Path(__file__).with_name("machine.h"))
Progress = Callable[[int, int], None]


def compile_by_sass(source: Path, output: Path, target: str, options: CompileOptions | None = None) -> None:
    """An artifact for the device `sim` with the plan, the kernels and the configurations of `target`."""
    gpu = find_target(target)

    def build_translated(
        units: Sequence[Unit], progress: Progress = lambda done, total: None
    ) -> tuple[CodeObject, ...]:
        return build([translated(unit.source, gpu.name) for unit in units], progress)

    with (
        patch.object(compiler, "find_targets", lambda names: (replace(gpu, name="sim"),)),
        patch.object(compiler, "build", build_translated),
    ):
        compile_model(source, output, ("sim",), options or CompileOptions(), quiet)


def translated(source: str, target: str) -> Unit:
    """Of an emitted source, in two halves of about the same length, for two compilers at once."""
    (code,) = build((Unit(target, "nvcc", source),))
    halves = ["", ""]
    for text in sorted(translate(code.code, disassembled(code.code)).values(), key=len, reverse=True):
        halves[len(halves[0]) > len(halves[1])] += text
    machine = "".join(path.read_text("utf-8") for path in MACHINES)
    first, second = (f"{machine}{half}" for half in halves)
    return Unit("sim", "g++", first, shared=second)


def disassembled(cubin: bytes) -> str:
    """What nvdisasm says of a cubin."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "code.cubin"
        path.write_bytes(cubin)
        return subprocess.run([_nvdisasm(), "-c", path], capture_output=True, text=True, check=True).stdout


def _nvdisasm() -> Path:
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(location).glob("cu*/bin/nvdisasm")):
            return path
    raise FileNotFoundError("nvdisasm is not installed; make setup installs it")
