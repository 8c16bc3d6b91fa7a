"""A GPU that this machine does not have: nvcc compiles for it up to PTX, which the simulator runs.

Plans, kernels, grids and forms are its own. With fewer multiprocessors ("sm_120a:16") it is faster, and where all
of a kernel's threads run at once the simulator has no stacks for those of a whole card.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from imp_codegen import build as building
from imp_codegen import compiler, device_code
from imp_codegen.build import CodeObject, Unit, build, toolchain
from imp_codegen.compiler import CompileOptions
from imp_codegen.emit import Emitted
from imp_codegen.targets import Target, find_target, targets
from imp_runtime import cuda
from imp_runtime.sim import SimDevice
from ptx.translate import translate

MACHINE = Path(__file__).with_name("machine.h")
_OWN_UNIT = compiler._unit
Progress = Callable[[int, int], None]


@contextmanager
def absent_gpu(wanted: str | Target) -> Iterator[None]:
    """Until it ends the machine seems to have one GPU of this target, and code for it is such that it runs there."""
    gpu = find_target(wanted) if isinstance(wanted, str) else wanted
    with ExitStack() as stack:
        stack.enter_context(patch.dict(targets(), {gpu.name: gpu}))
        for module, name, value in (
            (compiler, "_unit", _unit),
            (compiler, "build", _build),
            (building, "build", _build),
            (cuda, "target_of_gpu", lambda: gpu.name),
            (cuda, "gpu", lambda: ("no GPU, but PTX on the CPU", gpu.sms)),
            (cuda, "CudaDevice", functools.partial(SimDevice, target=gpu.name)),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield


def _unit(target: Target, emitted: Emitted, options: CompileOptions) -> Unit:
    """A model's code in two pieces, the second of which other models have, too; the simulator's own as it is."""
    if target.compiler == "g++":
        return _OWN_UNIT(target, emitted, options)
    with ThreadPoolExecutor(2) as pool:
        own, shared = pool.map(functools.partial(_translated, target=target.name), (emitted.own, emitted.shared))
    return Unit(target.name, "g++", own, "check" if options.check else "plain", shared)


def _build(units: Sequence[Unit], progress: Progress = lambda done, total: None) -> tuple[CodeObject, ...]:
    """What a test itself has nvcc compile."""
    told = (
        Unit(unit.target, "g++", _translated(unit.source, unit.target)) if unit.compiler == "nvcc" else unit
        for unit in units
    )
    return build(tuple(told), progress)


@functools.cache
def _translated(source: str, target: str) -> str:
    return MACHINE.read_text("utf-8") + "".join(translate(_ptx(source, target)).values())


def _ptx(source: str, target: str) -> str:
    """What nvcc makes of it, told the same as for machine code."""
    architecture = target.removeprefix("sm_")
    told = [flag for flag in toolchain.flags(Unit(target, "nvcc", source)) if not flag.startswith("-gencode")]
    told = [flag for flag in told if flag not in ("-cubin", "-Xptxas", "-v")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "include").symlink_to(device_code.templates() / "include")
        (folder / "model.cu").write_text(source, "utf-8")
        command = (toolchain.find("nvcc").path, *told, "-ptx", f"-arch=compute_{architecture}", "model.cu")
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return (folder / "model.ptx").read_text("utf-8")
