"""What operations are made of: values, weights, and what an operation's numpy evaluation may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Value:
    """The result of one operation, float32[tokens, width]."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint: [rows, cols], or a vector with rows = 1.

    `experts`: it is a stack of so many matrices, one an expert, each with as many of its rows; 0: it is one matrix.
    """

    name: str
    rows: int
    cols: int
    experts: int = 0

    @property
    def each(self) -> int:
        """Rows of one matrix."""
        return self.rows // max(self.experts, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """As checkpoints have it, in numpy order."""
        if self.experts:
            return (self.experts, self.each, self.cols)
        return (self.rows, self.cols) if self.rows > 1 else (self.cols,)


class Evaluation(Protocol):
    """Rows of one sequence in numpy: token ids int64[n], at ascending positions int64[n], and the sequence's state."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The rows' token ids."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where in the sequence they stand."""

    def rows(self, weight: Weight, begin: int, end: int) -> Floats:
        """Rows of a matrix, float32[end - begin, cols]."""

    def vector(self, weight: Weight) -> Floats:
        """A vector, float32[cols]."""

    def product(self, x: Floats, weight: Weight, expert: int | None = None) -> Floats:
        """x[n, cols] @ weight.T, x as the matrix multiplies it; of a stack one expert's matrix."""

    def append(self, layer: int, new: Floats) -> Floats:
        """Put `new` [k and v, or k, n, kv heads, head_dim] into a layer's cache; all that this then holds."""

    def kept(self, layer: int) -> Floats:
        """All that a layer's cache holds, these rows with it."""


@dataclass(frozen=True, slots=True)
class Op(ABC):
    """An operation. A subclass's other fields are what it reads, and numbers; each one decides what comes out."""

    out: Value

    @abstractmethod
    def fits(self) -> bool:
        """Whether the shapes of what it reads and of its result agree."""

    @abstractmethod
    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        """The result, float32[n, width], from the values that it reads, in the order of the fields."""


def inputs(op: Op) -> tuple[Value, ...]:
    """The values that an operation reads."""
    found = (getattr(op, field.name) for field in fields(op) if field.name != "out")
    return tuple(value for value in found if isinstance(value, Value))


def weights(op: Op) -> tuple[Weight, ...]:
    """The weights that an operation reads."""
    found = (getattr(op, field.name) for field in fields(op))
    return tuple(value for value in found if isinstance(value, Weight))


def label(op: Op) -> str:
    """An operation in messages and plans: kind and result."""
    return f"{type(op).__name__} {op.out.name}"


def floats(x: NDArray[np.generic]) -> Floats:
    """`x` as float32."""
    result: Floats = x.astype(np.float32)
    return result
