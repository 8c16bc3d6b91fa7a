"""Elements that are moved one by one, or computed."""

from __future__ import annotations

import numpy as np

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.formats import Bytes, formats
from imp_codegen.sources import Source, spans_of
from imp_codegen.stored._stored import Stored, check_vector, misfit


class StoredHeadColumns:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int) -> None:
        if len(inner.shape) != 2 or inner.shape[0] % heads:
            raise misfit(checkpoint, source, inner, f"a matrix of {heads} heads")
        self._head, self._cols = inner.shape[0] // heads, inner.shape[1]
        self.shape = (heads * self._cols, self._head)
        self.format = inner.format if inner.format.one_by_one else formats()["F32"]
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        first, last = start // self._cols, -(-stop // self._cols)
        stored = self._inner.rows(first * self._head, last * self._head)
        if not self._inner.format.one_by_one:
            stored = np.ascontiguousarray(self._inner.format.dequantize(stored), "<f4").view(np.uint8)
        elements = stored.reshape(last - first, self._head, self._cols, self.format.block_bytes).swapaxes(1, 2)
        columns = elements.reshape((last - first) * self._cols, self._head * self.format.block_bytes)
        return np.ascontiguousarray(columns[start - first * self._cols : stop - first * self._cols])


class StoredTransposed:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 3 or not inner.format.one_by_one:
            raise misfit(checkpoint, source, inner, "a stack of matrices of F32, F16 or BF16")
        experts, self._cols, self._each = inner.shape
        self.shape = (experts, self._each, self._cols)
        self.format = inner.format
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        parts = [np.empty((0, self._cols * self.format.block_bytes), np.uint8)]
        for expert in range(start // self._each, -(-stop // self._each)):
            stored = self._inner.rows(expert * self._cols, (expert + 1) * self._cols)
            values = stored.reshape(self._cols, self._each, self.format.block_bytes)
            first = expert * self._each
            taken = values[:, max(start - first, 0) : stop - first].swapaxes(0, 1)
            parts.append(taken.reshape(len(taken), self._cols * self.format.block_bytes))
        return np.concatenate(parts)


class StoredFlat:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 2 or not inner.format.one_by_one:
            raise misfit(checkpoint, source, inner, "a matrix of F32, F16 or BF16")
        self._rows = inner.shape[0]
        self.shape = (self._rows * inner.shape[1],)
        self.format = inner.format
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        return self._inner.rows(0, self._rows).reshape(1, -1)[start:stop]


class StoredChanged:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, change: np.ufunc, value: float) -> None:
        check_vector(inner, source, checkpoint)
        if len(inner.shape) != 1:
            raise misfit(checkpoint, source, inner, "a vector")
        self.shape = inner.shape
        self.format = formats()["F32"]
        self._inner = inner
        self._change = change
        self._value = np.float32(value)

    def rows(self, start: int, stop: int) -> Bytes:
        floats = self._change(self._inner.format.dequantize(self._inner.rows(start, stop)), self._value)
        return np.ascontiguousarray(floats, "<f4").view(np.uint8)


class StoredFloat32:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if inner.format.name not in ("F32", "F16", "BF16"):
            raise misfit(checkpoint, source, inner, "F32, F16 or BF16")
        self.shape = inner.shape
        self.format = formats()["F32"]
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        floats = self._inner.format.dequantize(self._inner.rows(start, stop))
        return np.ascontiguousarray(floats, "<f4").view(np.uint8)


class StoredReciprocal:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        self.shape = inner.shape
        self.format = inner.format
        self._inner = inner
        self._what = f"{checkpoint.path}: tensor {next(iter(spans_of(source)))!r}"

    def rows(self, start: int, stop: int) -> Bytes:
        divisors = np.ascontiguousarray(self._inner.rows(start, stop)).view("<f4")
        if not (np.isfinite(divisors) & (divisors > 0)).all():
            raise CheckpointError(f"{self._what} is {divisors.min()}, expected a number above 0, as it is divided by")
        return np.ascontiguousarray(np.float32(1) / divisors, "<f4").view(np.uint8)
