"""What every stored weight is, and what its readers share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.formats import Bytes, Format
from imp_codegen.sources import Source, spans_of


class Stored(Protocol):
    """A weight that can be read: a vector has the shape (elements,) and is one row, a stack three dimensions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In numpy order."""

    @property
    def format(self) -> Format:
        """What the bytes mean."""

    def rows(self, start: int, stop: int) -> Bytes:
        """The rows start..stop as they are stored, uint8[stop - start, row bytes]."""


def rows_of(stored: Stored) -> tuple[int, int]:
    """Rows, and what one has; a vector, or a number, is one row."""
    *_, rows, values = (1, 1, *stored.shape)
    return rows, values


def check_vector(inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
    """CheckpointError if it is a vector whose elements are not stored one by one."""
    if len(inner.shape) == 1 and not inner.format.one_by_one:
        raise misfit(checkpoint, source, inner, "a vector of F32, F16 or BF16")


def take(vector: Stored, start: int, stop: int, elements: NDArray[np.int64]) -> Bytes:
    """Elements of a vector of floats, which is one row."""
    nbytes = vector.format.block_bytes
    taken: Bytes = vector.rows(start, stop)[:, (elements[:, None] * nbytes + np.arange(nbytes)).reshape(-1)]
    return taken


def misfit(checkpoint: Checkpoint, source: Source, inner: Stored, expected: str) -> CheckpointError:
    """The error that a source is not as expected."""
    shape = f"{inner.format.name} {list(inner.shape)}"
    return CheckpointError(
        f"{checkpoint.path}: tensor {next(iter(spans_of(source)))!r} is {shape}, expected {expected}"
    )
