"""What nvcc makes of a source up to PTX, as C++ for the simulator."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from imp_codegen import device_code
from imp_codegen.build import Unit, toolchain
from ptx.translate import translate

MACHINE = Path(__file__).with_name("machine.h")


@functools.cache
def by_ptx(source: str, target: str) -> str:
    """C++ of all kernels of an emitted source."""
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
