"""Points of the IQ formats' grids: which eight weights there are together, or four. Kernels include the same lists."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray

from imp_codegen import device_code

IQ1, IQ2 = (-1, 0, 1), (8, 25, 43)
"""What the numbers in lists of points of eight stand for."""


@functools.cache
def points(name: str, values: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """The list `name`, float32[points, 8] of `values` by their numbers, or where there are none float32[points, 4]."""
    text = (device_code.templates() / "include" / "imp" / "layout" / f"points_{name}.inc").read_text()
    words = np.array([int(word, 16) for word in re.findall(r"0x\w+", text)], "<u4")
    if not values:
        return words.view(np.uint8).reshape(-1, 4).astype(np.float32)
    numbers = words[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    found: NDArray[np.float32] = np.array(values, np.float32)[numbers]
    return found
