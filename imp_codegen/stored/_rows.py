"""Rows of a tensor: some of them, or all in another order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.formats import Bytes
from imp_codegen.sources import Source
from imp_codegen.stored._stored import Stored, check_vector, misfit, take


class StoredRows:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, begin: int, end: int) -> None:
        check_vector(inner, source, checkpoint)
        if not inner.shape or not 0 <= begin < end <= inner.shape[0]:
            raise misfit(checkpoint, source, inner, f"at least {end} rows")
        self.shape = (end - begin, *inner.shape[1:])
        self.format = inner.format
        self._inner = inner
        self._begin = begin

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) > 1:
            return self._inner.rows(self._begin + start, self._begin + stop)
        return take(self._inner, start, stop, np.arange(self._begin, self._begin + self.shape[0]))


class StoredPermuted:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int) -> None:
        check_vector(inner, source, checkpoint)
        if not inner.shape or inner.shape[0] % (2 * heads):
            raise misfit(checkpoint, source, inner, f"{heads} heads, and so a multiple of {2 * heads} rows")
        self.shape = inner.shape
        self.format = inner.format
        self._inner = inner
        self._head_rows = inner.shape[0] // heads

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) > 1:
            stored = self._stored_at(np.arange(start, stop))
            first = int(stored.min(initial=start))
            return self._inner.rows(first, int(stored.max(initial=start - 1)) + 1)[stored - first]
        return take(self._inner, start, stop, self._stored_at(np.arange(self.shape[0])))

    def _stored_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the permuted rows are stored."""
        head, row = np.divmod(rows, self._head_rows)
        stored: NDArray[np.int64] = head * self._head_rows + row % 2 * (self._head_rows // 2) + row // 2
        return stored


class StoredUnstacked:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 3:
            raise misfit(checkpoint, source, inner, "matrices, three dimensions")
        self.shape = (inner.shape[0] * inner.shape[1], inner.shape[2])
        self.format = inner.format
        self.rows = inner.rows


class StoredHeadRows:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int, begin: int, end: int) -> None:
        if len(inner.shape) != 2 or inner.shape[0] % heads or inner.shape[0] // heads < end:
            raise misfit(checkpoint, source, inner, f"a matrix of {heads} heads with {end} rows or more")
        self.shape = (heads * (end - begin), inner.shape[1])
        self.format = inner.format
        self._inner = inner
        self._head = inner.shape[0] // heads
        self._begin = begin
        self._count = end - begin

    def rows(self, start: int, stop: int) -> Bytes:
        head, row = np.divmod(np.arange(start, stop), self._count)
        stored = head * self._head + self._begin + row
        first = int(stored.min(initial=0 if start == stop else stored[0]))
        taken: Bytes = self._inner.rows(first, int(stored.max(initial=first - 1)) + 1)[stored - first]
        return taken


class StoredHalfOfEach:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, half: int) -> None:
        if len(inner.shape) != 3 or inner.shape[1] % 2:
            raise misfit(checkpoint, source, inner, "a stack of matrices of an even number of rows")
        experts, rows, cols = inner.shape
        self.shape = (experts, rows // 2, cols)
        self.format = inner.format
        below = StoredUnstacked(inner, source, checkpoint)
        begin, end = half * rows // 2, (half + 1) * rows // 2
        self.rows = StoredHeadRows(below, source, checkpoint, experts, begin, end).rows


class StoredEverySecond:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, first: int) -> None:
        check_vector(inner, source, checkpoint)
        *_, rows = inner.shape[:-1] or inner.shape
        if rows % 2:
            raise misfit(checkpoint, source, inner, "an even number of rows")
        self.shape = (*inner.shape[:-2], rows // 2, *inner.shape[-1:][: len(inner.shape) - 1])
        self.format = inner.format
        self._inner = inner
        self._first = first

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) == 1:
            return take(self._inner, start, stop, np.arange(self._first, self._inner.shape[0], 2))
        return self._inner.rows(2 * start, 2 * stop)[self._first :: 2]
