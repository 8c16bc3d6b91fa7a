"""Weights that lie in several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from imp_codegen.checkpoint import Checkpoint, CheckpointError, TensorInfo
from imp_codegen.formats import Bytes, format_named, formats
from imp_codegen.sources import Below, Group, Mxfp4, Stack, Tensor
from imp_codegen.stored._stored import Stored, misfit, rows_of


class StoredGroup:
    def __init__(self, inner: Sequence[Stored], source: Group, checkpoint: Checkpoint) -> None:
        self.format = format_named(source.format)
        codes, *_ = self.format.parts
        rows, values = rows_of(inner[0])
        self.shape = rows, inner[0].format.row_bytes(values) // codes.nbytes * codes.weights
        self._parts = []
        for part, stored, kind, array in zip(source.sources, inner, self.format.of, self.format.parts, strict=True):
            count, values = rows_of(stored)
            each = rows if count == 1 else 1 if count == rows else array.rows  # that share one of the tensor's
            wanted = array.row_bytes(self.shape[1])
            if stored.format.name != kind or -(-rows // each) != count or stored.format.row_bytes(values) != wanted:
                expected = f"{kind} with {wanted} bytes a row, for {rows} rows in {self.format.name}"
                raise misfit(checkpoint, part, stored, expected)
            self._parts.append((stored, each))

    def rows(self, start: int, stop: int) -> Bytes:
        joined: list[Bytes] = []
        for stored, each in self._parts:
            first = start // each
            joined.append(stored.rows(first, -(-stop // each))[np.arange(start, stop) // each - first])
        return np.concatenate(joined, axis=1)


class StoredStack:
    def __init__(self, inner: Sequence[Stored], source: Stack, checkpoint: Checkpoint) -> None:
        first = inner[0]
        for part, stored in zip(source.sources, inner, strict=True):
            if len(stored.shape) != 2 or (stored.shape, stored.format) != (first.shape, first.format):
                expected = f"a matrix as the first expert's: {first.format.name} {list(first.shape)}"
                raise misfit(checkpoint, part, stored, expected)
        self.shape = (len(inner), *first.shape)
        self.format = first.format
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        each = self.shape[1]
        parts = [
            self._inner[at].rows(max(start - at * each, 0), min(stop - at * each, each))
            for at in range(start // each, -(-stop // each))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StoredBelow:
    def __init__(self, inner: Sequence[Stored], source: Below, checkpoint: Checkpoint) -> None:
        cols, self.format = inner[0].shape[-1], inner[0].format
        for part, stored in zip(source.sources, inner, strict=True):
            if len(stored.shape) > 2 or (stored.shape[-1], stored.format) != (cols, self.format):
                raise misfit(checkpoint, part, stored, f"{self.format.name} with rows of {cols}")
        ends = [*accumulate(rows_of(stored)[0] for stored in inner)]
        self.shape = (ends[-1], cols)
        self._parts = [*zip(inner, (0, *ends), ends, strict=False)]

    def rows(self, start: int, stop: int) -> Bytes:
        parts = [
            stored.rows(max(start, first) - first, min(stop, end) - first)
            for stored, first, end in self._parts
            if first < stop and start < end
        ]
        return np.concatenate(parts) if parts else self._parts[0][0].rows(0, 0)


class StoredMxfp4:
    def __init__(self, source: Mxfp4, checkpoint: Checkpoint) -> None:
        self._blocks, self._scales = _bytes(checkpoint, source.blocks), _bytes(checkpoint, source.scales)
        shape = self._scales.shape
        if len(shape) != 3 or self._blocks.shape != (*shape, 16):
            raise CheckpointError(
                f"{checkpoint.path}: tensor {self._blocks.name!r} is U8 {list(self._blocks.shape)} and "
                f"{self._scales.name!r} {list(self._scales.shape)}, expected [experts, rows, blocks, 16] and the same "
                "without the 16"
            )
        experts, rows, self._count = shape
        self.shape = (experts, rows, self._count * 32)
        self.format = formats()["MXFP4"]
        self._checkpoint = checkpoint

    def rows(self, start: int, stop: int) -> Bytes:
        scales = self._checkpoint.rows(self._scales.name, start, stop)
        if (scales == 255).any():
            row = start + int(np.flatnonzero((scales == 255).any(axis=1))[0])
            raise CheckpointError(
                f"{self._checkpoint.path}: tensor {self._scales.name!r} has the scale 255 in row {row}, which is no "
                "number; the file is damaged"
            )
        stored = self._checkpoint.rows(self._blocks.name, start * self._count, stop * self._count)
        codes = np.stack([stored & 15, stored >> 4], axis=-1).reshape(-1, 2, 16)
        blocks = np.concatenate([scales.reshape(-1, 1), codes[:, 0] | codes[:, 1] << 4], axis=1)
        return blocks.reshape(stop - start, -1)


def _bytes(checkpoint: Checkpoint, tensor: Tensor) -> TensorInfo:
    found = checkpoint.tensors.get(tensor.name)
    if found is None or found.format != "U8":
        what = "is missing" if found is None else f"is {found.format}, expected U8"
        raise CheckpointError(f"{checkpoint.path}: tensor {tensor.name!r} {what}")
    return found
