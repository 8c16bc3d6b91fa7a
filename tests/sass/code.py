"""What ptxas makes of a source, as C++ for the simulator."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import tempfile
from pathlib import Path

from imp_codegen.build import Unit, build
from sass.translate import translate

MACHINES = (Path(__file__).parents[1] / "ptx" / "machine.h", Path(__file__).with_name("machine.h"))


@functools.cache
def by_sass(source: str, target: str) -> str:
    """C++ of all kernels of an emitted source."""
    (code,) = build((Unit(target, "nvcc", source),))
    machine = "".join(path.read_text("utf-8") for path in MACHINES)
    return machine + "".join(translate(code.code, disassembled(code.code)).values())


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
