"""Models whose code is what nvcc makes for a GPU, up to PTX, for the simulator to run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from imp_codegen import compiler, device_code
from imp_codegen.build import CodeObject, Unit, build, toolchain
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from model_checks import quiet
from ptx.translate import translate

MACHINE = Path(__file__).with_name("machine.h")
Progress = Callable[[int, int], None]


def compile_by_ptx(source: Path, output: Path, target: str, options: CompileOptions | None = None) -> None:
    """An artifact for the device `sim` with the plan, the kernels and the configurations of `target`."""
    gpu = find_target(target)

    def build_translated(
        units: Sequence[Unit], progress: Progress = lambda done, total: None
    ) -> tuple[CodeObject, ...]:
        return build([_translated(ptx_of(unit.source, gpu.name)) for unit in units], progress)

    with (
        patch.object(compiler, "find_targets", lambda names: (replace(gpu, name="sim"),)),
        patch.object(compiler, "build", build_translated),
    ):
        compile_model(source, output, ("sim",), options or CompileOptions(), quiet)


def ptx_of(source: str, target: str) -> str:
    """What nvcc makes of an emitted source, told the same as for a cubin."""
    architecture = target.removeprefix("sm_")
    told = [flag for flag in toolchain.flags(Unit(target, "nvcc", source)) if not flag.startswith("-gencode")]
    told = [flag for flag in told if flag not in ("-cubin", "-Xptxas", "-v")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "include").symlink_to(device_code.templates() / "include")
        (folder / "model.cu").write_text(source, "utf-8")
        nvcc = toolchain.find("nvcc").path
        command = (nvcc, *told, "-ptx", f"-arch=compute_{architecture}", "-o", "model.ptx", "model.cu")
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return (folder / "model.ptx").read_text("utf-8")


def _translated(ptx: str) -> Unit:
    """In two sources of about the same length, for two compilers at once."""
    halves = ["", ""]
    for text in sorted(translate(ptx).values(), key=len, reverse=True):
        halves[len(halves[0]) > len(halves[1])] += text
    machine = MACHINE.read_text("utf-8")
    first, second = (f"{machine}{half}" for half in halves)
    return Unit("sim", "g++", first, shared=second)
