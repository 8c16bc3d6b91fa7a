"""Several variants of one piece of work timed against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imp_runtime.device import Device, Launch

_LEAST_MS = 1.0  # of one timing; shorter work is repeated


def race(device: Device, variants: Sequence[Sequence[Launch]], rounds: int) -> npt.NDArray[np.float64]:
    """Microseconds of one run of each variant: float64 [rounds, variants].

    Each round runs all of them, in this order or the opposite one in turn, without a pause between them: what drifts
    (clocks, temperature) touches all variants of a round alike, so compare within rounds.
    """
    replays = [device.capture(variant) for variant in variants]
    for replay in replays:
        replay.launch()
    begin = device.mark()
    replays[0].launch()
    repeat = max(1, math.ceil(_LEAST_MS / max(device.elapsed_ms(begin, device.mark()), 1e-3)))
    times = np.empty((rounds, len(variants)))
    for i in range(rounds):
        order = range(len(variants)) if i % 2 == 0 else range(len(variants) - 1, -1, -1)
        replays[order[0]].launch()  # the GPU has been idle: this run is not timed
        marks = [device.mark()]
        for variant in order:
            for _ in range(repeat):
                replays[variant].launch()
            marks.append(device.mark())
        for variant, before, after in zip(order, marks, marks[1:], strict=False):
            times[i, variant] = device.elapsed_ms(before, after) * 1e3 / repeat
    return times
