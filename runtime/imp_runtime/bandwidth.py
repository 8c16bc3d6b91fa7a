"""The read bandwidth of the device at hand, measured with the artifact's own read kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imp_runtime.device import Device, Launch
from imp_runtime.model_runner import ModelRunner

PROGRAM = "bandwidth"
_LEAST_BYTES = 2 << 30  # a launch takes a hundredth of its read: 604 MiB gave 2716 GB/s on an H100, 4 GiB 3065
_MOST_BYTES = 4 << 30
_RUNS = 10


def read_bandwidth(runner: ModelRunner) -> float | None:
    """The best of several reads of up to 4 GiB, GB/s (1e9); None on the simulator, which has no bandwidth of its own.

    What is read is what a step reads, weights and KV cache where they lie, and whichever of the two gives more: a
    yardstick that a kernel could beat would be none. Where both are small, memory is borrowed: a second read would come
    from L2, and of a short one much is launch. (Where a cache has taken nearly all, what it leaves is too little: a
    read of some tens of microseconds gave 2.2 to 2.4 TB/s on an H100 whose steps read 3.0.)
    """
    device: Device = runner.device
    if runner.target.simulated:
        return None
    (planned,) = runner.launches(PROGRAM)
    regions = [(address, length) for address, length in runner.arenas if length >= _LEAST_BYTES]
    if regions:
        return _best(device, planned, regions)
    nbytes = min(_MOST_BYTES, device.memory_free() // 2)
    borrowed = device.alloc(nbytes, "bandwidth test")
    try:
        device.zero(borrowed, nbytes)
        return _best(device, planned, [(borrowed, nbytes)])
    finally:
        device.free(borrowed)


def _best(device: Device, planned: Launch, regions: Sequence[tuple[int, int]]) -> float:
    best = 0.0
    for address, length in regions:
        nbytes = min(_MOST_BYTES, length) // 256 * 256
        launch = dataclasses.replace(planned, args=(address, address + nbytes, planned.args[2]))
        for _ in range(_RUNS):
            begin = device.mark()
            device.launch(launch)
            end = device.mark()
            device.wait(end)
            best = max(best, nbytes / device.elapsed_ms(begin, end) / 1e6)
    return best
