"""The read bandwidth of the device at hand, measured with the artifact's own read kernel."""

from __future__ import annotations

import dataclasses

from imp_runtime.device import Device
from imp_runtime.model_runner import ModelRunner

PROGRAM = "bandwidth"
_MOST_BYTES = 4 << 30  # far more than any cache holds
_RUNS = 10


def read_bandwidth(runner: ModelRunner) -> float | None:
    """The best of several reads of up to 4 GiB, GB/s (1e9); None on the simulator, which has no bandwidth of its own.

    What is read is what a step reads, weights and KV cache where they lie, and whichever of the two gives more: a
    yardstick that a kernel could beat would be none. (Free memory would not do. A cache leaves little of it, and a read
    that takes some tens of microseconds is half launch: 2.2 to 2.4 TB/s on an H100 whose steps read 3.0.)
    """
    device: Device = runner.device
    if device.target == "sim":
        return None
    (planned,) = runner.launches(PROGRAM)
    best = 0.0
    for address, length in runner.arenas:
        nbytes = min(_MOST_BYTES, length) // 256 * 256
        launch = dataclasses.replace(planned, args=(address, address + nbytes, planned.args[2]))
        for _ in range(_RUNS):
            begin = device.mark()
            device.launch(launch)
            end = device.mark()
            device.wait(end)
            best = max(best, nbytes / device.elapsed_ms(begin, end) / 1e6)
    return best
