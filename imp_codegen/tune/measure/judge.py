"""When one of two variants counts as faster: by more than the noise of their race."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imp_runtime.plan import Kernel

_ERRORS = 3  # standard errors that a gain must have

Floats = NDArray[np.float64]
Race = Callable[[Sequence[tuple[Kernel, ...]]], Floats]  # steps to microseconds [rounds, steps]


def wins(saved: Floats, least: float) -> bool:
    """Whether the median of what was saved in each round is more than `least` and than the noise."""
    median = float(np.median(saved))
    # 1.4826: a normal distribution's deviation from its median deviation; 1.2533: a median's error from a mean's.
    error = 1.2533 * 1.4826 * float(np.median(np.abs(saved - median))) / math.sqrt(len(saved))
    return median > max(least, _ERRORS * error)
