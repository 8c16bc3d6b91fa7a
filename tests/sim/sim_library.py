"""Kernels of tests/sim/kernels compiled by g++ and called through the simulator's C interface."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imp_codegen.build import Unit, build, engine_sources

Array = NDArray[Any]
Flavour = Literal["plain", "check"]
KERNELS = Path(__file__).resolve().parent / "kernels"
INCLUDE = Path(__file__).resolve().parents[2] / "templates" / "include"
SIM = INCLUDE / "imp" / "sim"
_COMMON = ("-std=c++20", "-ffp-contract=off", "-fPIC", "-O2", f"-I{INCLUDE}", f"-I{SIM}")


def compile_sim(source: Path, folder: Path, flavour: Flavour = "plain") -> Path:
    """A shared object of one kernel file and the engine, as imp builds them."""
    text = f'#line 1 "{source.name}"\n{source.read_text("utf-8")}'
    (built,) = build((Unit("sim", "g++", text, flavour),))
    library = folder / "kernels.so"
    library.write_bytes(built.code)
    return library


def compile_portable(source: Path, folder: Path) -> Path:
    """The same for any x86-64."""
    sources = ["-x", "c++", str(source), *map(str, engine_sources("plain"))]
    library = folder / "kernels.so"
    command = ["g++", *_COMMON, "-march=x86-64", "-shared", "-pthread", *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def aligned(array: Array) -> Array:
    """A copy that begins at a multiple of 256 bytes, as device memory does."""
    raw = np.empty(array.nbytes + 256, np.uint8)
    begin = -raw.ctypes.data % 256
    copy: Array = raw[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class SimLibrary:
    """A loaded kernel file."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.imp_sim_error.restype = ctypes.c_char_p
        self._library.imp_sim_register.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p]
        self._library.imp_sim_unregister.argtypes = [ctypes.c_uint64]
        self._library.imp_sim_configure.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]

    def configure(self, threads: int = 1, order: int = 0, seed: int = 1) -> None:
        self._library.imp_sim_configure(threads, order, seed)

    def integer(self, name: str) -> int:
        """The value of an exported int."""
        return ctypes.c_int.in_dll(self._library, name).value

    def launch(
        self,
        entry: str,
        buffers: Sequence[Array],
        grid: tuple[int, int, int] = (1, 1, 1),
        block: int = 32,
        shared_bytes: int = 0,
        resident: bool = False,
    ) -> str:
        """Run a kernel on aligned buffers, in place. Empty, or what went wrong."""
        for number, buffer in enumerate(buffers):
            self._library.imp_sim_register(buffer.ctypes.data, buffer.nbytes, f"argument {number}".encode())
        arguments = (ctypes.c_uint64 * len(buffers))(*(buffer.ctypes.data for buffer in buffers))
        function = ctypes.cast(getattr(self._library, entry), ctypes.c_void_p)
        failed = self._library.imp_sim_launch(
            function, arguments, len(buffers), (ctypes.c_int * 3)(*grid), block, shared_bytes, resident
        )
        for buffer in buffers:
            self._library.imp_sim_unregister(buffer.ctypes.data)
        return self._library.imp_sim_error().decode() if failed else ""
