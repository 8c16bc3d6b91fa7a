"""What the runtime needs of a device, and which one this machine has.

Two implementations: `imp_runtime.cuda` (an NVIDIA GPU) and `imp_runtime.sim` (the CPU). All work goes, in order,
through one stream: an upload is seen by every launch after it and by none before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from imp_runtime.errors import ImpError


class DeviceError(ImpError):
    """The device or its driver refused, or the machine has no device for the target."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: a handle from `Module.kernel`, block counts, threads of a block, pointer arguments.

    `overlap`: it may begin before the launch before it has ended, for which it waits by itself. `resident`: its blocks
    wait for one another, so all of them run at once, and its arguments are one struct of pointers.
    """

    name: str
    kernel: int
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int
    args: tuple[int, ...]
    overlap: bool = False
    resident: bool = False


class Module(Protocol):
    """Loaded machine code."""

    def kernel(self, entry: str, shared_bytes: int) -> int:
        """Handle of the symbol `entry`, prepared for launches with that much shared memory."""
        ...


class Replay(Protocol):
    """A recorded list of launches."""

    def launch(self) -> None:
        """Enqueue all of them; does not wait."""
        ...


class Mark(Protocol):
    """A point in the device's stream."""


class Device(Protocol):
    """Memory, code and one ordered stream of work. Every method raises DeviceError with what to do about it."""

    @property
    def name(self) -> str:
        """The device as its maker calls it."""
        ...

    @property
    def target(self) -> str:
        """The compiler target whose code it runs: `sm_120a`, `sm_90a`, `sim`, ..."""
        ...

    def alloc(self, nbytes: int, name: str) -> int:
        """Address of new memory, 256-byte aligned, of undefined content; `name` says in errors what it is for."""
        ...

    def free(self, address: int) -> None:
        """Give back what `alloc` returned."""
        ...

    def declare(self, address: int, nbytes: int, name: str) -> None:
        """Say that kernels may touch these bytes, which lie in one allocation; what checks accesses wants to know."""
        ...

    def upload(self, address: int, data: npt.NDArray[np.generic] | bytes, offset: int = 0) -> None:
        """Copy `data` (C-contiguous) to `address + offset`, in stream order; `data` may be changed on return."""
        ...

    def download(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A copy of device memory, uint8 [nbytes], after all work enqueued so far."""
        ...

    def zero(self, address: int, nbytes: int) -> None:
        """Fill with zero bytes, in stream order."""
        ...

    def host_ring(self, nbytes: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Zeroed host memory that kernels write: its address for kernels and a live view of it, uint8 [nbytes]."""
        ...

    def load_code(self, code: bytes) -> Module:
        """Load machine code made for this device's target."""
        ...

    def room(self, launch: Launch) -> int:
        """Blocks of the kernel that run at once on the idle device."""
        ...

    def launch(self, launch: Launch) -> None:
        """Enqueue one kernel; does not wait. A resident one for which there is no room is refused."""
        ...

    def capture(self, launches: Sequence[Launch]) -> Replay:
        """Record launches to be enqueued together, in order; `Launch.overlap` says which may begin early."""
        ...

    def synchronize(self) -> None:
        """Wait for all work enqueued so far."""
        ...

    def busy(self) -> bool:
        """Whether enqueued work is unfinished; never waits. Raises DeviceError when work has failed."""
        ...

    def mark(self) -> Mark:
        """A mark after all work enqueued so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """Wait until the stream has passed `mark`."""
        ...

    def elapsed_ms(self, begin: Mark, end: Mark) -> float:
        """Milliseconds between two marks, once the stream has passed both."""
        ...

    def memory_free(self) -> int:
        """Bytes that `alloc` could still give."""
        ...

    def close(self) -> None:
        """Give everything back. The device must not be used afterwards."""
        ...


def detect_target() -> str:
    """The target of the GPU in this machine, from its compute capability (`sm_90a`); `sim` without one. Never fails."""
    try:
        from imp_runtime import cuda

        return cuda.target_of_gpu() or "sim"
    except (ImportError, ImpError):
        return "sim"


def detect_gpu() -> tuple[str, int] | None:
    """Name and multiprocessors of the GPU in this machine; None without one. Never fails."""
    try:
        from imp_runtime import cuda

        return cuda.gpu()
    except (ImportError, ImpError):
        return None


def open_device(target: str, *, simulated: bool = False) -> Device:
    """The device that runs `target`. Raises DeviceError when this machine has none; any machine runs simulated code."""
    if simulated:
        from imp_runtime.sim import SimDevice

        return SimDevice(target=target)
    try:
        from imp_runtime import cuda
    except ImportError as error:
        raise DeviceError(
            f"target {target}: cuda-bindings cannot be imported ({error}); pip install cuda-bindings"
        ) from None
    found = cuda.target_of_gpu()
    if found != target:
        have = f"its GPU is {found}" if found else "it has no GPU"
        raise DeviceError(
            f"target {target} does not run on this machine: {have}; compile with --target {found or 'sim'}"
        )
    return cuda.CudaDevice()
