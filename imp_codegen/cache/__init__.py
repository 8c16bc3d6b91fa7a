"""Formats of cached keys and values: how a row, one position of one head, lies in a block, and what it keeps.

One file per format, each of which exports `FORMAT`, and a header templates/include/imp/layout/cache_<name>.h with its
twin on the device (layout/cache.h says what that has).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_runtime.errors import ImpError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class CacheFormatError(ImpError):
    """A format that does not exist."""


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """How a row of `head_dim` elements is kept, in `row_bytes(head_dim)` bytes, a multiple of 16.

    `name` is that of its header, `layout` that of the class template in it.
    `keep(x, ties)` is what float32 values become; with `ties`, what lies next to the middle between two neighbours
    takes the farther one, as it may in a kernel. `decode(rows)` turns uint8[..., positions, row bytes], a whole block's
    positions, into float32[..., positions, head_dim].
    """

    name: str
    layout: str
    row_bytes: Callable[[int], int]
    keep: Callable[[Floats, bool], Floats]
    decode: Callable[[Bytes], Floats]


@functools.cache
def cache_formats() -> Mapping[str, CacheFormat]:
    """Every known format by name."""
    modules = (importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__))
    return {module.FORMAT.name: module.FORMAT for module in modules}


def cache_format(name: str) -> CacheFormat:
    """The format called `name`, such as "f16"."""
    try:
        return cache_formats()[name]
    except KeyError:
        raise CacheFormatError(f"unknown cache format {name!r:.80}; known: {', '.join(cache_formats())}") from None
