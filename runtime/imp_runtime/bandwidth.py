"""The read bandwidth of the device at hand, measured with the artifact's own read kernel."""

from __future__ import annotations

import dataclasses
import statistics

from imp_runtime.device import Device
from imp_runtime.model_runner import ModelRunner

PROGRAM = "bandwidth"
_MOST_BYTES = 4 << 30  # far more than any cache holds
_RUNS = 15


def read_bandwidth(runner: ModelRunner) -> float | None:
    """Median GB/s (1e9) of a few reads of up to 4 GiB; None on the simulator, which has no bandwidth of its own."""
    device: Device = runner.device
    if device.target == "sim":
        return None
    nbytes = min(_MOST_BYTES, device.memory_free() // 2) // 256 * 256
    address = device.alloc(nbytes, "bandwidth test")
    try:
        device.zero(address, nbytes)
        (planned,) = runner.launches(PROGRAM)
        launch = dataclasses.replace(planned, args=(address, address + nbytes, planned.args[2]))
        seconds = []
        for _ in range(_RUNS):
            begin = device.mark()
            device.launch(launch)
            end = device.mark()
            device.wait(end)
            seconds.append(device.elapsed_ms(begin, end) / 1e3)
    finally:
        device.free(address)
    return nbytes / statistics.median(seconds) / 1e9
