"""Formats of cached keys and values: how a row, one position of one head, lies in a block, and what it keeps.

One file per format; each exports `FORMAT`. On the device a format is a header below templates/include/imp/layout.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """How `head_dim` elements of a row are kept, `row_bytes(head_dim)` bytes each.

    `keep(x, ties)` is what float32 values become; with `ties`, what lies next to the middle between two neighbours
    takes the farther one, as it may in a kernel. `decode(rows)` turns uint8[..., positions, row bytes], a whole block's
    positions, into float32[..., positions, head_dim].
    """

    name: str
    row_bytes: Callable[[int], int]
    keep: Callable[[Floats, bool], Floats]
    decode: Callable[[Bytes], Floats]


@functools.cache
def cache_formats() -> Mapping[str, CacheFormat]:
    """Every known format by name."""
    modules = (importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__))
    return {module.FORMAT.name: module.FORMAT for module in modules}
