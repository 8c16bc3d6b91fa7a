"""Matrices that are rounded as they are read."""

from __future__ import annotations

import numpy as np

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.formats import Bytes, format_named
from imp_codegen.rounding import FLOATS, rounding_named
from imp_codegen.sources import Rounded, spans_of
from imp_codegen.stored._stored import Stored

_READ_AT_ONCE = 1 << 20  # weights that are rounded before more are read


class StoredRounded:
    def __init__(self, inner: Stored, source: Rounded, checkpoint: Checkpoint) -> None:
        self._rounding = rounding_named(source.to)
        self._what = f"{checkpoint.path}: tensor {next(iter(spans_of(source)))!r}"
        if inner.format.name not in (*FLOATS, *self._rounding.again):
            raise CheckpointError(
                f"{self._what} is {inner.format.name}, so it is quantised already; --weights {source.to} takes "
                f"{self._rounding.takes}: leave it out, or compile the model in one of these"
            )
        if inner.shape[-1] % self._rounding.block:
            raise CheckpointError(
                f"{self._what} has rows of {inner.shape[-1]} weights, which is no multiple of {self._rounding.block} "
                f"as --weights {source.to} needs it; choose another format"
            )
        self.shape = inner.shape
        self.format = format_named(self._rounding.format)
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        cols, step = self.shape[-1], max(1, _READ_AT_ONCE // self.shape[-1])
        rounded = np.empty((stop - start, self.format.row_bytes(cols)), np.uint8)
        for first in range(start, stop, step):
            weights = self._inner.format.dequantize(self._inner.rows(first, min(first + step, stop)))
            if not np.abs(weights).max() <= self._rounding.largest:  # NaN is not, either
                raise CheckpointError(
                    f"{self._what} has a weight that is no number, or too large for {self.format.name}, in rows "
                    f"{first} to {first + len(weights) - 1}; it cannot be rounded: the file is damaged, or leave "
                    f"--weights {self._rounding.name} out"
                )
            rounded[first - start : first - start + len(weights)] = self._rounding.round(weights)
        return rounded
