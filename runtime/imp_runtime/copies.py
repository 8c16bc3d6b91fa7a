"""Copies in the host's memory by several cores: one alone moves about 4 GB/s out of a mapped file, PCIe 5 takes 63."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

_PIECE = 2 << 20  # bytes that a core copies at a time; in less time than that it could not be told to
_MOST = 8  # cores: memory has no more to give, and checksums want some, too

Bytes = npt.NDArray[np.uint8]


class Copier:
    """Cores that wait for something to copy."""

    def __init__(self) -> None:
        count = min(_MOST, len(os.sched_getaffinity(0)))
        self._workers = ThreadPoolExecutor(count, thread_name_prefix="imp-copy")

    def copy(self, into: Bytes, source: Bytes) -> None:
        """Copy `source` into `into`, uint8 of the same length; they do not overlap."""
        if source.nbytes < 2 * _PIECE:
            into[:] = source
            return
        part = partial(_copy_piece, into, source)
        for _ in self._workers.map(part, range(0, source.nbytes, _PIECE)):
            pass

    def close(self) -> None:
        """Let the cores go."""
        self._workers.shutdown()


def _copy_piece(into: Bytes, source: Bytes, at: int) -> None:
    into[at : at + _PIECE] = source[at : at + _PIECE]
