"""Sources: where the weights of a graph lie in a checkpoint, and how they are read there.

A graph's weights have names of imp's own, which are GGUF's. A checkpoint may call a tensor otherwise, hold several in
one, order rows in another way, or store what a norm multiplies by without the one that belongs to it. A source says so;
`models/<architecture>.py` says it for each weight. Reading loses nothing: rows are handed out as they are stored, but
for matrices that are to be rounded (`passes/round_weights.py`), which are as they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint, CheckpointError, TensorInfo
from imp_codegen.formats import Format, Part, format_named, formats
from imp_codegen.rounding import FLOATS, rounding_named

Bytes = NDArray[np.uint8]

_READ_AT_ONCE = 1 << 20  # weights that are rounded before more are read

_BYTES = Format("U8", 1, (Part(1, 1),), lambda raw: raw.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it is stored."""

    name: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows begin..end of a matrix; the elements begin..end of a vector."""

    source: Source
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Permute:
    """Rows (of a vector: elements) of `heads` heads: the two halves of each head interleaved.

    New row 2p of a head is its row p, new row 2p + 1 its row p + d/2. A rotary embedding that turned halves then turns
    neighbours, with the same result: https://github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py, does this to llama.
    """

    source: Source
    heads: int


@dataclass(frozen=True, slots=True)
class Unstacked:
    """Matrices of one tensor, one below the other."""

    source: Source


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Of each of `heads` heads of a matrix the rows begin..end; other sources read the heads' other rows."""

    source: Source
    heads: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class HeadColumns:
    """The matrix of each of `heads` heads transposed; as float32 where weights are not stored one by one."""

    source: Source
    heads: int


@dataclass(frozen=True, slots=True)
class HalfOfEach:
    """Of each matrix of a stack the first half of its rows, or with `half` 1 the second; another reads the other."""

    source: Source
    half: int


@dataclass(frozen=True, slots=True)
class Times:
    """A vector of floats times a value, in float32."""

    source: Source
    value: float


@dataclass(frozen=True, slots=True)
class Plus:
    """A vector of floats and a value, added in float32."""

    source: Source
    value: float


@dataclass(frozen=True, slots=True)
class Float32:
    """Floats as float32."""

    source: Source


@dataclass(frozen=True, slots=True)
class Codes:
    """Bytes whose meaning their group knows. Above `most`, where a scale is no number, they are refused."""

    name: str
    most: int = 255


@dataclass(frozen=True, slots=True)
class Reciprocal:
    """One over each of some floats, which have to be above zero, as float32."""

    source: Source


@dataclass(frozen=True, slots=True)
class Group:
    """A weight that a file spreads over tensors, such as codes and scales, whose format is called `format`.

    A tensor has as many rows as the first, or one for so many of that as the format says, or one for all.
    """

    format: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices of one shape and format, below one another: an expert's each."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Flat:
    """A matrix of floats as a vector, its rows one after the other."""

    source: Source


@dataclass(frozen=True, slots=True)
class Below:
    """Matrices of one format below one another, as one matrix; a vector is a row."""

    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class EverySecond:
    """Every second row of a matrix or a stack, every second element of a vector, from `first`, 0 or 1, on."""

    source: Source
    first: int


@dataclass(frozen=True, slots=True)
class Transposed:
    """A stack of matrices of floats, rows and columns of each exchanged."""

    source: Source


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """A stack in MXFP4 that lies in two tensors of bytes, as transformers has it (integrations/mxfp4.py).

    `blocks` U8 [experts, rows, blocks of a row, 16] have neighbours in a byte, the first in its low half; `scales`
    U8 [experts, rows, blocks of a row] are exponents, of which 255 is no number. Rows are handed out as GGUF has them.
    """

    blocks: Tensor
    scales: Tensor


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix or a stack, its weights rounded as `to` says (rounding/)."""

    source: Source
    to: str


Source = (
    Tensor
    | Rows
    | Permute
    | Unstacked
    | HeadRows
    | HeadColumns
    | HalfOfEach
    | Plus
    | Times
    | Float32
    | Codes
    | Reciprocal
    | Group
    | Stack
    | Flat
    | EverySecond
    | Transposed
    | Mxfp4
    | Below
    | Rounded
)


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


def spans_of(source: Source) -> dict[str, tuple[int, int] | None]:
    """The tensors that a source reads, and which rows of them, begin and end; None for all."""
    match source:
        case Tensor(name) | Codes(name):
            return {name: None}
        case Rows(inner, begin, end):
            (name, span), *rest = spans_of(inner).items()
            first, _ = span or (0, 0)
            return {name: (first + begin, first + end), **dict(rest)}
        case Permute(inner) | Plus(inner) | Float32(inner) | Flat(inner) | Transposed(inner) | Unstacked(inner):
            return spans_of(inner)
        case Reciprocal(inner) | Rounded(inner):
            return spans_of(inner)
        case HeadRows(inner) | HeadColumns(inner) | HalfOfEach(inner) | Times(inner):
            return spans_of(inner)
        case EverySecond(inner):  # the others are another weight's
            return spans_of(inner)
        case Mxfp4(blocks, scales):
            return spans_of(blocks) | spans_of(scales)
        case Group(_, sources) | Stack(sources) | Below(sources):
            return {name: span for each in sources for name, span in spans_of(each).items()}


def open_source(source: Source, checkpoint: Checkpoint) -> Stored:
    """A source in a checkpoint. CheckpointError where a tensor is missing, or is not such that it can be read so."""
    match source:
        case Tensor(name):
            return _StoredTensor(checkpoint, name)
        case Rows(inner, begin, end):
            return _StoredRows(open_source(inner, checkpoint), source, checkpoint, begin, end)
        case Permute(inner, heads):
            return _StoredPermuted(open_source(inner, checkpoint), source, checkpoint, heads)
        case Unstacked(inner):
            return _StoredUnstacked(open_source(inner, checkpoint), source, checkpoint)
        case HeadRows(inner, heads, begin, end):
            return _StoredHeadRows(open_source(inner, checkpoint), source, checkpoint, heads, begin, end)
        case HeadColumns(inner, heads):
            return _StoredHeadColumns(open_source(inner, checkpoint), source, checkpoint, heads)
        case HalfOfEach(inner, half):
            return _StoredHalfOfEach(open_source(inner, checkpoint), source, checkpoint, half)
        case Plus(inner, value):
            return _StoredChanged(open_source(inner, checkpoint), source, checkpoint, np.add, value)
        case Times(inner, value):
            return _StoredChanged(open_source(inner, checkpoint), source, checkpoint, np.multiply, value)
        case Float32(inner):
            return _StoredFloat32(open_source(inner, checkpoint), source, checkpoint)
        case Codes(name, most):
            return _StoredCodes(checkpoint, name, most)
        case Reciprocal(inner):
            return _StoredReciprocal(open_source(Float32(inner), checkpoint), source, checkpoint)
        case Group(_, sources):
            return _StoredGroup([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Stack(sources):
            return _StoredStack([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Below(sources):
            return _StoredBelow([open_source(each, checkpoint) for each in sources], source, checkpoint)
        case Flat(inner):
            return _StoredFlat(open_source(inner, checkpoint), source, checkpoint)
        case EverySecond(inner, first):
            return _StoredEverySecond(open_source(inner, checkpoint), source, checkpoint, first)
        case Transposed(inner):
            return _StoredTransposed(open_source(inner, checkpoint), source, checkpoint)
        case Mxfp4():
            return _StoredMxfp4(source, checkpoint)
        case Rounded(inner):
            return _StoredRounded(open_source(inner, checkpoint), source, checkpoint)


class _StoredTensor:
    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is missing; the checkpoint is incomplete")
        fmt = formats().get(tensor.format)
        if fmt is None:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name!r} is {tensor.format}, which imp does not support; supported: "
                f"{', '.join(name for name, fmt in formats().items() if not fmt.of)}"
            )
        self.shape = tensor.shape
        self.format = fmt
        self._checkpoint = checkpoint
        self._name = name

    def rows(self, start: int, stop: int) -> Bytes:
        return self._checkpoint.rows(self._name, start, stop)


class _StoredRows:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, begin: int, end: int) -> None:
        _check_vector(inner, source, checkpoint)
        if not inner.shape or not 0 <= begin < end <= inner.shape[0]:
            raise _misfit(checkpoint, source, inner, f"at least {end} rows")
        self.shape = (end - begin, *inner.shape[1:])
        self.format = inner.format
        self._inner = inner
        self._begin = begin

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) > 1:
            return self._inner.rows(self._begin + start, self._begin + stop)
        return _take(self._inner, start, stop, np.arange(self._begin, self._begin + self.shape[0]))


class _StoredPermuted:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int) -> None:
        _check_vector(inner, source, checkpoint)
        if not inner.shape or inner.shape[0] % (2 * heads):
            raise _misfit(checkpoint, source, inner, f"{heads} heads, and so a multiple of {2 * heads} rows")
        self.shape = inner.shape
        self.format = inner.format
        self._inner = inner
        self._head_rows = inner.shape[0] // heads

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) > 1:
            stored = self._stored_at(np.arange(start, stop))
            first = int(stored.min(initial=start))
            return self._inner.rows(first, int(stored.max(initial=start - 1)) + 1)[stored - first]
        return _take(self._inner, start, stop, self._stored_at(np.arange(self.shape[0])))

    def _stored_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the permuted rows are stored."""
        head, row = np.divmod(rows, self._head_rows)
        stored: NDArray[np.int64] = head * self._head_rows + row % 2 * (self._head_rows // 2) + row // 2
        return stored


class _StoredUnstacked:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 3:
            raise _misfit(checkpoint, source, inner, "matrices, three dimensions")
        self.shape = (inner.shape[0] * inner.shape[1], inner.shape[2])
        self.format = inner.format
        self.rows = inner.rows


class _StoredHeadRows:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int, begin: int, end: int) -> None:
        if len(inner.shape) != 2 or inner.shape[0] % heads or inner.shape[0] // heads < end:
            raise _misfit(checkpoint, source, inner, f"a matrix of {heads} heads with {end} rows or more")
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


class _StoredHeadColumns:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, heads: int) -> None:
        if len(inner.shape) != 2 or inner.shape[0] % heads:
            raise _misfit(checkpoint, source, inner, f"a matrix of {heads} heads")
        self._head, self._cols = inner.shape[0] // heads, inner.shape[1]
        self.shape = (heads * self._cols, self._head)
        self.format = inner.format if inner.format.block == 1 else formats()["F32"]
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        first, last = start // self._cols, -(-stop // self._cols)
        stored = self._inner.rows(first * self._head, last * self._head)
        if self._inner.format.block > 1:
            stored = np.ascontiguousarray(self._inner.format.dequantize(stored), "<f4").view(np.uint8)
        elements = stored.reshape(last - first, self._head, self._cols, self.format.block_bytes).swapaxes(1, 2)
        columns = elements.reshape((last - first) * self._cols, self._head * self.format.block_bytes)
        return np.ascontiguousarray(columns[start - first * self._cols : stop - first * self._cols])


class _StoredHalfOfEach:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, half: int) -> None:
        if len(inner.shape) != 3 or inner.shape[1] % 2:
            raise _misfit(checkpoint, source, inner, "a stack of matrices of an even number of rows")
        experts, rows, cols = inner.shape
        self.shape = (experts, rows // 2, cols)
        self.format = inner.format
        below = _StoredUnstacked(inner, source, checkpoint)
        begin, end = half * rows // 2, (half + 1) * rows // 2
        self.rows = _StoredHeadRows(below, source, checkpoint, experts, begin, end).rows


class _StoredChanged:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, change: np.ufunc, value: float) -> None:
        _check_vector(inner, source, checkpoint)
        if len(inner.shape) != 1:
            raise _misfit(checkpoint, source, inner, "a vector")
        self.shape = inner.shape
        self.format = formats()["F32"]
        self._inner = inner
        self._change = change
        self._value = np.float32(value)

    def rows(self, start: int, stop: int) -> Bytes:
        floats = self._change(self._inner.format.dequantize(self._inner.rows(start, stop)), self._value)
        return np.ascontiguousarray(floats, "<f4").view(np.uint8)


class _StoredFloat32:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if inner.format.name not in ("F32", "F16", "BF16"):
            raise _misfit(checkpoint, source, inner, "F32, F16 or BF16")
        self.shape = inner.shape
        self.format = formats()["F32"]
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        floats = self._inner.format.dequantize(self._inner.rows(start, stop))
        return np.ascontiguousarray(floats, "<f4").view(np.uint8)


class _StoredCodes:
    def __init__(self, checkpoint: Checkpoint, name: str, most: int) -> None:
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is missing; the checkpoint is incomplete")
        if tensor.format not in ("U8", "F8_E4M3", "F8_E8M0"):
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is {tensor.format}, expected U8, a byte each")
        self.shape = tensor.shape
        self.format = _BYTES
        self._checkpoint = checkpoint
        self._name = name
        self._most = most

    def rows(self, start: int, stop: int) -> Bytes:
        found = self._checkpoint.rows(self._name, start, stop)
        if (largest := int(found.max(initial=0))) > self._most:
            raise CheckpointError(
                f"{self._checkpoint.path}: tensor {self._name!r} has a scale whose byte is {largest:#x}, expected at "
                f"most {self._most:#x}: imp reads scales that are positive numbers"
            )
        return found


class _StoredReciprocal:
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


class _StoredGroup:
    def __init__(self, inner: Sequence[Stored], source: Group, checkpoint: Checkpoint) -> None:
        self.format = format_named(source.format)
        codes, *_ = self.format.parts
        rows, values = _rows_of(inner[0])
        self.shape = rows, inner[0].format.row_bytes(values) // codes.nbytes * codes.weights
        self._parts = []
        for part, stored, kind, array in zip(source.sources, inner, self.format.of, self.format.parts, strict=True):
            count, values = _rows_of(stored)
            each = rows if count == 1 else 1 if count == rows else array.rows  # that share one of the tensor's
            wanted = array.row_bytes(self.shape[1])
            if stored.format.name != kind or -(-rows // each) != count or stored.format.row_bytes(values) != wanted:
                expected = f"{kind} with {wanted} bytes a row, for {rows} rows in {self.format.name}"
                raise _misfit(checkpoint, part, stored, expected)
            self._parts.append((stored, each))

    def rows(self, start: int, stop: int) -> Bytes:
        joined: list[Bytes] = []
        for stored, each in self._parts:
            first = start // each
            joined.append(stored.rows(first, -(-stop // each))[np.arange(start, stop) // each - first])
        return np.concatenate(joined, axis=1)


class _StoredStack:
    def __init__(self, inner: Sequence[Stored], source: Stack, checkpoint: Checkpoint) -> None:
        first = inner[0]
        for part, stored in zip(source.sources, inner, strict=True):
            if len(stored.shape) != 2 or (stored.shape, stored.format) != (first.shape, first.format):
                expected = f"a matrix as the first expert's: {first.format.name} {list(first.shape)}"
                raise _misfit(checkpoint, part, stored, expected)
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


class _StoredBelow:
    def __init__(self, inner: Sequence[Stored], source: Below, checkpoint: Checkpoint) -> None:
        cols, self.format = inner[0].shape[-1], inner[0].format
        for part, stored in zip(source.sources, inner, strict=True):
            if len(stored.shape) > 2 or (stored.shape[-1], stored.format) != (cols, self.format):
                raise _misfit(checkpoint, part, stored, f"{self.format.name} with rows of {cols}")
        ends = [*accumulate(_rows_of(stored)[0] for stored in inner)]
        self.shape = (ends[-1], cols)
        self._parts = [*zip(inner, (0, *ends), ends, strict=False)]

    def rows(self, start: int, stop: int) -> Bytes:
        parts = [
            stored.rows(max(start, first) - first, min(stop, end) - first)
            for stored, first, end in self._parts
            if first < stop and start < end
        ]
        return np.concatenate(parts) if parts else self._parts[0][0].rows(0, 0)


class _StoredFlat:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 2 or inner.format.block != 1:
            raise _misfit(checkpoint, source, inner, "a matrix of F32, F16 or BF16")
        self._rows = inner.shape[0]
        self.shape = (self._rows * inner.shape[1],)
        self.format = inner.format
        self._inner = inner

    def rows(self, start: int, stop: int) -> Bytes:
        return self._inner.rows(0, self._rows).reshape(1, -1)[start:stop]


class _StoredEverySecond:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint, first: int) -> None:
        _check_vector(inner, source, checkpoint)
        *_, rows = inner.shape[:-1] or inner.shape
        if rows % 2:
            raise _misfit(checkpoint, source, inner, "an even number of rows")
        self.shape = (*inner.shape[:-2], rows // 2, *inner.shape[-1:][: len(inner.shape) - 1])
        self.format = inner.format
        self._inner = inner
        self._first = first

    def rows(self, start: int, stop: int) -> Bytes:
        if len(self.shape) == 1:
            return _take(self._inner, start, stop, np.arange(self._first, self._inner.shape[0], 2))
        return self._inner.rows(2 * start, 2 * stop)[self._first :: 2]


class _StoredTransposed:
    def __init__(self, inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
        if len(inner.shape) != 3 or inner.format.block != 1:
            raise _misfit(checkpoint, source, inner, "a stack of matrices of F32, F16 or BF16")
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


class _StoredMxfp4:
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


class _StoredRounded:
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


def _bytes(checkpoint: Checkpoint, tensor: Tensor) -> TensorInfo:
    found = checkpoint.tensors.get(tensor.name)
    if found is None or found.format != "U8":
        what = "is missing" if found is None else f"is {found.format}, expected U8"
        raise CheckpointError(f"{checkpoint.path}: tensor {tensor.name!r} {what}")
    return found


def _rows_of(stored: Stored) -> tuple[int, int]:
    """Rows, and what one has; a vector, or a number, is one row."""
    *_, rows, values = (1, 1, *stored.shape)
    return rows, values


def _check_vector(inner: Stored, source: Source, checkpoint: Checkpoint) -> None:
    """CheckpointError if it is a vector whose elements are not stored one by one."""
    if len(inner.shape) == 1 and inner.format.block != 1:
        raise _misfit(checkpoint, source, inner, "a vector of F32, F16 or BF16")


def _take(vector: Stored, start: int, stop: int, elements: NDArray[np.int64]) -> Bytes:
    """Elements of a vector of floats, which is one row."""
    nbytes = vector.format.block_bytes
    taken: Bytes = vector.rows(start, stop)[:, (elements[:, None] * nbytes + np.arange(nbytes)).reshape(-1)]
    return taken


def _misfit(checkpoint: Checkpoint, source: Source, inner: Stored, expected: str) -> CheckpointError:
    shape = f"{inner.format.name} {list(inner.shape)}"
    return CheckpointError(
        f"{checkpoint.path}: tensor {next(iter(spans_of(source)))!r} is {shape}, expected {expected}"
    )
