"""A file of weights, memory-mapped: what is read of it counts as this process's memory only for a while."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError

_RESIDENT = 1 << 28  # bytes read through the mapping before its pages are given back


class MappedFile:
    """The bytes of the file at `path`, read-only. Raises CheckpointError where it cannot be opened, or is empty."""

    __slots__ = ("_touched", "data", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._touched = 0
        try:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error

    def view(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """A part of the file, uint8[nbytes], not copied.

        It stays valid when its pages are given back: they are read again from the system's cache.
        """
        if self._touched + nbytes > _RESIDENT:
            self.release()
        self._touched += nbytes
        return np.frombuffer(self.data, np.uint8, nbytes, offset)

    def release(self) -> None:
        """Give the pages back that were read so far."""
        if hasattr(self.data, "madvise"):
            self.data.madvise(mmap.MADV_DONTNEED)
        self._touched = 0

    def close(self) -> None:
        """Release the file; while views of it are alive it stays mapped."""
        with contextlib.suppress(BufferError):
            self.data.close()
