"""A family of kernels: a module of this package with a function `match`, found by that.

    match(edges, op, rows) -> Match | None

says which operations, `op` the first of them, its kernels take in a program of that many rows (tokens), going by who
reads whose result; None where they take none, FusionError where they nearly would. What a match names is all that its
kernels know of a graph: passes/fuse.py checks that nothing else of it is read, or left for others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from imp_codegen.graph import Op, Value
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.errors import ImpError

Block = tuple[Value, ...]
"""Values that lie side by side: float32[rows, the sum of their widths]."""


class FusionError(ImpError):
    """An operation that no kernel computes as the graph has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(ABC):
    """Operations that kernels of one family take together; a subclass names each of them.

    `ops`: all of them, in the family's own order; the last one's result names the group. `reads`: what the kernels find
    in memory, each block whole and alone in its buffer. `writes`: what they leave there. `over`: results that they
    write where something that they read lies, by result. `named`: results in a buffer of that name, which nothing else
    uses, since the host or other programs read it.
    """

    ops: tuple[Op, ...]
    reads: tuple[Block, ...]
    writes: tuple[Block, ...]
    over: Mapping[Value, Value] = field(default_factory=dict)
    named: Mapping[Value, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in a program."""
        return self.ops[-1].out.name

    @abstractmethod
    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The kernels, in order."""


@dataclass(frozen=True, slots=True)
class Body:
    """A graph as the kernels of programs of one number of rows take it."""

    low: Lowering
    matches: tuple[Match, ...]
