"""The `sim` target: kernels compiled by g++ into a shared object, run on the CPU. Launches are synchronous."""

from __future__ import annotations

import _ctypes
import bisect
import ctypes
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imp_runtime.device import DeviceError, Launch, Mark

_ALIGNMENT = 256


def _aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed uint8 [nbytes] at an address that is a multiple of 256."""
    raw = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + nbytes]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A launch as the C interface takes it."""

    name: str
    entry: int
    args: ctypes.Array[ctypes.c_uint64]
    n_args: int
    grid: ctypes.Array[ctypes.c_int]
    block: int
    shared_bytes: int
    resident: bool


@dataclass(frozen=True, slots=True)
class SimMark:
    """A moment; nothing is ever pending on the simulator."""

    nanoseconds: int


def _unload(library: int, descriptor: int) -> None:
    """The library's own destructors give back the stacks of the simulated threads."""
    _ctypes.dlclose(library)
    os.close(descriptor)


class SimModule:
    """A loaded shared object and its `imp_sim_*` functions."""

    def __init__(self, code: bytes) -> None:
        # The descriptor stays open as long as the code is loaded: the dynamic loader knows libraries by their path, and
        # a reused descriptor number would give it the old one back.
        descriptor = os.memfd_create("imp-sim.so")
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(code)
        try:
            self.library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
            self._launch = self.library.imp_sim_launch
            self._error = self.library.imp_sim_error
            self._configure = self.library.imp_sim_configure
        except (OSError, AttributeError) as error:
            os.close(descriptor)
            raise DeviceError(
                f"the sim code cannot be loaded ({error}); compile the model again on this machine"
            ) from None
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        self._launch.argtypes = [pointer, pointer, integer, pointer, integer, integer, integer]
        self._launch.restype = integer
        self._error.argtypes = []
        self._error.restype = ctypes.c_char_p
        self._configure.argtypes = [integer, integer, ctypes.c_uint64]
        self._configure.restype = None
        self._running = threading.Lock()
        self._unload = weakref.finalize(self, _unload, self.library._handle, descriptor)
        self._unload.atexit = False  # a thread may still be in a kernel then

    def kernel(self, entry: str, shared_bytes: int) -> int:
        """Address of the symbol `entry`."""
        try:
            address = ctypes.cast(getattr(self.library, entry), ctypes.c_void_p).value
        except AttributeError:
            address = None
        if address is None:
            raise DeviceError(f"the sim code has no kernel {entry!r}; compile the model again")
        return address

    def configure(self, threads: int, order: int, seed: int) -> None:
        """OS threads to use; order of a block's threads: 0 ascending, 1 descending, 2 random by `seed`."""
        self._configure(threads, order, seed)

    def register(self, address: int, nbytes: int, name: str) -> None:
        """Declare legal global memory, where the code was built to check accesses."""
        if hasattr(self.library, "imp_sim_register"):
            self.library.imp_sim_register(ctypes.c_uint64(address), ctypes.c_uint64(nbytes), name.encode())

    def unregister(self, address: int) -> None:
        """Undo `register`."""
        if hasattr(self.library, "imp_sim_unregister"):
            self.library.imp_sim_unregister(ctypes.c_uint64(address))

    def run(self, launch: _Prepared) -> None:
        """Run one kernel to its end."""
        shape = (launch.grid, launch.block, launch.shared_bytes, launch.resident)
        with self._running:
            if not self._unload.alive:
                raise DeviceError(f"kernel {launch.name} was launched after its code had been unloaded")
            if self._launch(launch.entry, launch.args, launch.n_args, *shape):
                text = (self._error() or b"no reason given").decode(errors="replace")
                raise DeviceError(f"kernel {launch.name} failed on the simulator: {'; '.join(text.split(chr(10)))}")

    def close(self) -> None:
        """Unload it, once no kernel runs; whoever forgets to has it unloaded when nothing refers to it any more."""
        with self._running:
            self._unload()


@dataclass(frozen=True, slots=True)
class SimReplay:
    """Prepared launches, run one after the other."""

    module: SimModule
    launches: tuple[_Prepared, ...]

    def launch(self) -> None:
        """Run them all."""
        for launch in self.launches:
            self.module.run(launch)


class SimDevice:
    """The CPU as a device. The module that was loaded last runs the launches, and checks their accesses."""

    name = "CPU simulator"

    def __init__(self, threads: int | None = None, order: int = 0, seed: int = 0, target: str = "sim") -> None:
        self.target = target
        self._settings = (threads or min(2, len(os.sched_getaffinity(0))), order, seed)
        self._arrays: dict[int, npt.NDArray[np.uint8]] = {}
        self._starts: list[int] = []
        self._declared: dict[int, tuple[int, str]] = {}
        self._modules: list[SimModule] = []

    def alloc(self, nbytes: int, name: str) -> int:
        """Address of new memory, 256-byte aligned."""
        try:
            array = _aligned(nbytes)
        except (MemoryError, ValueError):
            raise DeviceError(
                f"cannot allocate {nbytes:,} bytes for {name}: not enough memory on this machine"
            ) from None
        address = array.ctypes.data
        self._arrays[address] = array
        bisect.insort(self._starts, address)
        return address

    def free(self, address: int) -> None:
        """Give back what `alloc` returned."""
        end = address + len(self._arrays.pop(address))
        self._starts.remove(address)
        for start in [a for a in self._declared if address <= a < end]:
            del self._declared[start]
            for module in self._modules[-1:]:
                module.unregister(start)

    def declare(self, address: int, nbytes: int, name: str) -> None:
        """Register memory that kernels may touch."""
        self._declared[address] = (nbytes, name)
        for module in self._modules[-1:]:
            module.register(address, nbytes, name)

    def _check(self, address: int, nbytes: int) -> None:
        at = bisect.bisect_right(self._starts, address) - 1
        start = self._starts[at] if at >= 0 else 0
        if at < 0 or address + nbytes > start + len(self._arrays[start]):
            raise DeviceError(f"a copy of {nbytes} bytes at {address:#x} leaves the simulator's memory")

    def upload(self, address: int, data: npt.NDArray[np.generic] | bytes, offset: int = 0) -> None:
        """Copy into device memory."""
        source = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        self._check(address + offset, source.nbytes)
        ctypes.memmove(address + offset, source.ctypes.data, source.nbytes)

    def download(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A copy of device memory, uint8 [nbytes]."""
        self._check(address, nbytes)
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)

    def zero(self, address: int, nbytes: int) -> None:
        """Fill with zero bytes."""
        self._check(address, nbytes)
        ctypes.memset(address, 0, nbytes)

    def host_ring(self, nbytes: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Plain memory: the simulator shares the host's."""
        address = self.alloc(nbytes, "ring")
        return address, self._arrays[address]

    def load_code(self, code: bytes) -> SimModule:
        """Load a shared object."""
        module = SimModule(code)
        module.configure(*self._settings)
        for address, (nbytes, name) in self._declared.items():
            module.register(address, nbytes, name)
        self._modules.append(module)
        return module

    def _prepare(self, launch: Launch) -> _Prepared:
        args = (ctypes.c_uint64 * max(1, len(launch.args)))(*launch.args)
        grid = (ctypes.c_int * 3)(*launch.grid)
        shape = (grid, launch.block, launch.shared_bytes, launch.resident)
        return _Prepared(launch.name, launch.kernel, args, len(launch.args), *shape)

    def _loaded(self) -> SimModule:
        if not self._modules:
            raise DeviceError("a kernel was launched when no code was loaded")
        return self._modules[-1]

    def room(self, launch: Launch) -> int:
        """All of them, in turns."""
        return math.prod(launch.grid)

    def launch(self, launch: Launch) -> None:
        """Run one kernel to its end."""
        self._loaded().run(self._prepare(launch))

    def capture(self, launches: Sequence[Launch]) -> SimReplay:
        """Prepare the arguments of all launches."""
        return SimReplay(self._loaded(), tuple(map(self._prepare, launches)))

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def busy(self) -> bool:
        """Nothing is ever pending."""
        return False

    def mark(self) -> SimMark:
        """Now."""
        return SimMark(time.perf_counter_ns())

    def wait(self, mark: Mark) -> None:
        """Nothing is ever pending."""

    def elapsed_ms(self, begin: Mark, end: Mark) -> float:
        """Wall time between two marks."""
        assert isinstance(begin, SimMark)
        assert isinstance(end, SimMark)
        return (end.nanoseconds - begin.nanoseconds) / 1e6

    def memory_free(self) -> int:
        """Free memory of the machine in bytes."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """Unload all code and drop all memory."""
        while self._modules:
            self._modules.pop().close()
        for address in list(self._arrays):
            self.free(address)
