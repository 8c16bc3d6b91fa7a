"""An NVIDIA GPU as a device, through cuda-bindings' driver API. The only module that imports it."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

from imp_runtime.copies import Copier
from imp_runtime.device import DeviceError, Launch, Mark

_STAGING_BYTES = 16 << 20
_STAGING_ALIGNMENT = 64
# Up to this much shared memory needs no permission.
_SHARED_DEFAULT = 48 << 10
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "close what else uses the GPU, ask for fewer kv_tokens or use a smaller model",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the code was compiled for another GPU; compile the model again on this machine",
    "CUDA_ERROR_INVALID_IMAGE": "the code is damaged or newer than the driver; update the driver or compile again",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the code; update the driver",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "driver library and kernel module differ; reboot after a driver update",
    "CUDA_ERROR_NOT_FOUND": "the code lacks what the plan names; compile the model again",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel touched foreign memory; restart, and report it with `imp verify`'s output",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "a kernel failed; restart, and report it with `imp verify`'s output",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "a kernel failed; restart, and report it with `imp verify`'s output",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel failed; restart, and report it with `imp verify`'s output",
}


def _error(call: str, code: Any, detail: str = "") -> DeviceError:
    name = str(getattr(code, "name", code))
    what = f"{call} failed with {name}{detail}"
    return DeviceError(f"{what}: {_ADVICE.get(name, 'see the CUDA driver documentation for this error')}")


def _call(function: Any, *args: Any) -> Any:
    """Call the driver; its result without the status (None, the value, or a tuple). DeviceError on any failure."""
    status, *values = function(*args)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise _error(function.__name__, status)
    return values[0] if len(values) == 1 else tuple(values) if values else None


def _initialise() -> bool:
    """Start the driver; False where there is no driver or no GPU."""
    try:
        (status,) = driver.cuInit(0)
    except (RuntimeError, OSError):  # no libcuda on this machine
        return False
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return False
    if status != driver.CUresult.CUDA_SUCCESS:
        raise _error("cuInit", status)
    return int(_call(driver.cuDeviceGetCount)) > 0


def target_of_gpu() -> str | None:
    """The compiler target of the first visible GPU, `sm_90a` for compute capability 9.0; None without one."""
    return _target(_call(driver.cuDeviceGet, 0)) if _initialise() else None


def gpu() -> tuple[str, int] | None:
    """The first visible GPU's name and multiprocessors; None without one."""
    if not _initialise():
        return None
    device = _call(driver.cuDeviceGet, 0)
    return _name(device), _multiprocessors(device)


def _name(device: Any) -> str:
    return str(_call(driver.cuDeviceGetName, 256, device).split(b"\0")[0].decode(errors="replace"))


def _multiprocessors(device: Any) -> int:
    count = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    return int(_call(driver.cuDeviceGetAttribute, count, device))


def _target(device: Any) -> str:
    attribute = driver.CUdevice_attribute
    major = _call(driver.cuDeviceGetAttribute, attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = _call(driver.cuDeviceGetAttribute, attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    # Architecture-specific code exists from Hopper on.
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


class _Thread(threading.local):
    """Whether the calling thread has made the context current."""

    ready = False


class CudaMark:
    """An event in the stream; it goes back to the device's pool when nobody holds the mark any more."""

    __slots__ = ("event", "pool")

    def __init__(self, event: Any, pool: list[Any]) -> None:
        self.event = event
        self.pool = pool

    def __del__(self) -> None:
        self.pool.append(self.event)


class CudaModule:
    """A loaded cubin."""

    def __init__(self, device: CudaDevice, code: bytes) -> None:
        self._device = device
        # Not cuLibraryLoadData: that one looks at the image later, or never.
        self.module = _call(driver.cuModuleLoadData, code)
        self._shared: dict[int, int] = {}

    def kernel(self, entry: str, shared_bytes: int) -> int:
        """Handle of the function `entry`, loaded now so that no load happens in the middle of a capture."""
        self._device.enter()
        function = _call(driver.cuModuleGetFunction, self.module, entry.encode())
        _call(driver.cuFuncLoad, function)
        # One division of L1 and shared memory for all kernels: an SM that changes it first runs empty.
        carveout = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        _call(driver.cuFuncSetAttribute, function, carveout, 100)
        handle = int(function)
        if shared_bytes > max(_SHARED_DEFAULT, self._shared.get(handle, 0)):
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _call(driver.cuFuncSetAttribute, function, attribute, shared_bytes)
            self._shared[handle] = shared_bytes
        return handle


class CudaReplay:
    """An instantiated CUDA graph."""

    def __init__(self, device: CudaDevice, graph: Any) -> None:
        self._device = device
        self._graph = graph

    def launch(self) -> None:
        """Enqueue the graph."""
        self._device.enter()
        _call(driver.cuGraphLaunch, self._graph, self._device.stream)


def _overlap() -> Any:
    """The launch attribute of programmatic dependent launch."""
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


class _Staging:
    """A pinned host buffer on the way to the GPU and the event after which it is free again."""

    def __init__(self) -> None:
        self.address = int(_call(driver.cuMemHostAlloc, _STAGING_BYTES, driver.CU_MEMHOSTALLOC_PORTABLE))
        self.view = _host_view(self.address, _STAGING_BYTES)
        self.event = _call(driver.cuEventCreate, _EVENT_FLAGS | int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        self.recorded = False


_EVENT_FLAGS = int(driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC)


def _host_view(address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


class CudaDevice:
    """The first visible GPU: its primary context and one stream. Any thread may call, but one at a time."""

    def __init__(self) -> None:
        if not _initialise():
            raise DeviceError(
                "this machine has no NVIDIA GPU or no driver; compile with --target sim to run on the CPU"
            )
        self._device = _call(driver.cuDeviceGet, 0)
        self.name = _name(self._device)
        self.target = _target(self._device)
        # Waiting threads sleep. An earlier owner of the context may have chosen otherwise, which does no harm.
        driver.cuDevicePrimaryCtxSetFlags(self._device, int(driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC))
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        self._thread = _Thread()
        self._allocations: dict[int, str] = {}
        self._host: list[int] = []
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._events: list[Any] = []
        self._idle_events: list[Any] = []
        self._closed = False
        self.enter()
        self.stream = _call(driver.cuStreamCreate, int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._staging = (_Staging(), _Staging())
        self._copier = Copier()
        self._active = 0
        self._filled = 0

    def enter(self) -> None:
        """Make the context current in the calling thread."""
        if not self._thread.ready:
            _call(driver.cuCtxSetCurrent, self._context)
            self._thread.ready = True

    def alloc(self, nbytes: int, name: str) -> int:
        """Device memory; the driver aligns it to 256 bytes at least."""
        self.enter()
        status, pointer = driver.cuMemAlloc(nbytes)
        if status != driver.CUresult.CUDA_SUCCESS:
            detail = f" ({nbytes:,} bytes asked for {name}, {self.memory_free():,} free on {self.name})"
            raise _error("cuMemAlloc", status, detail)
        self._allocations[int(pointer)] = name
        return int(pointer)

    def free(self, address: int) -> None:
        """Give back what `alloc` returned."""
        self.synchronize()
        del self._allocations[address]
        _call(driver.cuMemFree, driver.CUdeviceptr(address))

    def declare(self, address: int, nbytes: int, name: str) -> None:
        """The hardware checks accesses by page and needs no names."""

    def upload(self, address: int, data: npt.NDArray[np.generic] | bytes, offset: int = 0) -> None:
        """Copy through pinned staging: filling one piece overlaps with the transfer of the one before."""
        self.enter()
        source = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        done = 0
        while done < source.nbytes:
            if self._filled == _STAGING_BYTES:
                self._next_staging()
            staging, at = self._staging[self._active], self._filled
            n = min(source.nbytes - done, _STAGING_BYTES - at)
            self._copier.copy(staging.view[at : at + n], source[done : done + n])
            to = driver.CUdeviceptr(address + offset + done)
            _call(driver.cuMemcpyHtoDAsync, to, staging.address + at, n, self.stream)
            self._filled = -(-(at + n) // _STAGING_ALIGNMENT) * _STAGING_ALIGNMENT
            done += n

    def _next_staging(self) -> None:
        """Turn to the other staging buffer, once the GPU has read what it held."""
        full = self._staging[self._active]
        _call(driver.cuEventRecord, full.event, self.stream)
        full.recorded = True
        self._active = 1 - self._active
        self._filled = 0
        if self._staging[self._active].recorded:
            _call(driver.cuEventSynchronize, self._staging[self._active].event)

    def download(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A copy of device memory, uint8 [nbytes]."""
        self.enter()
        result = np.empty(nbytes, np.uint8)
        if nbytes:
            _call(driver.cuMemcpyDtoHAsync, result.ctypes.data, driver.CUdeviceptr(address), nbytes, self.stream)
            self.synchronize()
        return result

    def zero(self, address: int, nbytes: int) -> None:
        """Fill with zero bytes."""
        self.enter()
        _call(driver.cuMemsetD8Async, driver.CUdeviceptr(address), 0, nbytes, self.stream)

    def host_ring(self, nbytes: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Pinned host memory that the GPU can write."""
        self.enter()
        flags = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
        host = int(_call(driver.cuMemHostAlloc, nbytes, flags))
        self._host.append(host)
        view = _host_view(host, nbytes)
        view[:] = 0
        return int(_call(driver.cuMemHostGetDevicePointer, host, 0)), view

    def load_code(self, code: bytes) -> CudaModule:
        """Load a cubin."""
        self.enter()
        module = CudaModule(self, code)
        self._modules.append(module.module)
        return module

    def room(self, launch: Launch) -> int:
        """What an SM has registers, shared memory and threads for, on each."""
        self.enter()
        function, shared = driver.CUfunction(launch.kernel), launch.shared_bytes
        each = _call(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor, function, launch.block, shared)
        return int(each) * _multiprocessors(self._device)

    def _check_resident(self, launch: Launch) -> None:
        """Blocks that wait for one which the GPU has no room to start wait for ever."""
        blocks, room = math.prod(launch.grid), self.room(launch)
        if blocks > room:
            raise DeviceError(
                f"kernel {launch.name} has {blocks} CTAs that must run at once, and {self.name} holds {room}; "
                f"compile the model with --target {self.target}:{_multiprocessors(self._device)}"
            )

    def launch(self, launch: Launch) -> None:
        """Enqueue one kernel."""
        self.enter()
        if launch.resident:
            self._check_resident(launch)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = launch.block, 1, 1
        config.sharedMemBytes = launch.shared_bytes
        config.hStream = self.stream
        config.numAttrs = 0
        if launch.overlap:
            config.attrs = [_overlap()]
            config.numAttrs = 1
        values = (ctypes.c_uint64 * max(1, len(launch.args)))(*launch.args)
        base, step = ctypes.addressof(values), ctypes.sizeof(ctypes.c_uint64)
        pointers = (ctypes.c_void_p * len(values))(*(base + i * step for i in range(len(values))))
        function = driver.CUfunction(launch.kernel)
        # The driver reads the values during the call, so both arrays need to live only until it returns. Of a struct of
        # pointers, which a resident kernel takes, it reads all from the first address on.
        (status,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
        if status != driver.CUresult.CUDA_SUCCESS:
            shape = f" (kernel {launch.name}, grid {launch.grid}, block {launch.block}, shared {launch.shared_bytes})"
            raise _error("cuLaunchKernelEx", status, shape)

    def capture(self, launches: Sequence[Launch]) -> CudaReplay:
        """Record launches into a CUDA graph."""
        self.enter()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver.cuStreamBeginCapture, self.stream, mode)
        try:
            for launch in launches:
                self.launch(launch)
        except BaseException:
            driver.cuStreamEndCapture(self.stream)
            raise
        graph = _call(driver.cuStreamEndCapture, self.stream)
        executable = _call(driver.cuGraphInstantiate, graph, 0)
        self._graphs.append(executable)
        _call(driver.cuGraphDestroy, graph)
        _call(driver.cuGraphUpload, executable, self.stream)
        return CudaReplay(self, executable)

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.enter()
        _call(driver.cuStreamSynchronize, self.stream)

    def busy(self) -> bool:
        """Whether the stream has unfinished work."""
        self.enter()
        (status,) = driver.cuStreamQuery(self.stream)
        if status not in (driver.CUresult.CUDA_SUCCESS, driver.CUresult.CUDA_ERROR_NOT_READY):
            raise _error("cuStreamQuery", status)
        return bool(status == driver.CUresult.CUDA_ERROR_NOT_READY)

    def mark(self) -> CudaMark:
        """Record an event."""
        self.enter()
        if not self._idle_events:
            self._events.append(_call(driver.cuEventCreate, _EVENT_FLAGS))
            self._idle_events.append(self._events[-1])
        mark = CudaMark(self._idle_events.pop(), self._idle_events)
        _call(driver.cuEventRecord, mark.event, self.stream)
        return mark

    def wait(self, mark: Mark) -> None:
        """Sleep until the event has happened."""
        assert isinstance(mark, CudaMark)
        self.enter()
        _call(driver.cuEventSynchronize, mark.event)

    def elapsed_ms(self, begin: Mark, end: Mark) -> float:
        """Milliseconds between two events, measured by the GPU."""
        assert isinstance(begin, CudaMark)
        assert isinstance(end, CudaMark)
        self.wait(end)
        return float(_call(driver.cuEventElapsedTime, begin.event, end.event))

    def memory_free(self) -> int:
        """Free GPU memory in bytes."""
        self.enter()
        free, _total = _call(driver.cuMemGetInfo)
        return int(free)

    def close(self) -> None:
        """Give everything back. Failures are ignored: after a failed kernel every call fails, and the process ends."""
        if self._closed:
            return
        self._closed = True
        self._copier.close()
        with contextlib.suppress(DeviceError):
            self.synchronize()
        for graph in self._graphs:
            driver.cuGraphExecDestroy(graph)
        for event in [*self._events, *(staging.event for staging in self._staging)]:
            driver.cuEventDestroy(event)
        for module in self._modules:
            driver.cuModuleUnload(module)
        for address in self._allocations:
            driver.cuMemFree(driver.CUdeviceptr(address))
        for host in [*self._host, *(staging.address for staging in self._staging)]:
            driver.cuMemFreeHost(host)
        driver.cuStreamDestroy(self.stream)
        driver.cuDevicePrimaryCtxRelease(self._device)
