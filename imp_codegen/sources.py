"""Sources: where the weights of a graph lie in a checkpoint.

A graph's weights have names of imp's own, which are GGUF's. A checkpoint may call a tensor otherwise, hold several in
one, order rows in another way, or store what a norm multiplies by without the one that belongs to it. A source says so;
`models/<architecture>.py` says it for each weight, and `stored/` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass


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
