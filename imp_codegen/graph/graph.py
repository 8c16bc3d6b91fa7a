"""The graph: operations in SSA form, one token's width per value. `verify` checks what an architecture has built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from imp_codegen.graph.op import Op, Value, Weight, inputs, label, weights

Pairs = Callable[[Weight, Weight], bool]


class GraphError(AssertionError):
    """An architecture built a graph that is not well formed: a defect of the compiler."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in execution order."""

    ops: tuple[Op, ...]

    def weights(self) -> Mapping[str, Weight]:
        """Every weight by name, in order of first use."""
        found: dict[str, Weight] = {}
        for op in self.ops:
            for weight in weights(op):
                found.setdefault(weight.name, weight)
        return found

    def dump(self) -> str:
        """One line for each operation."""
        return "\n".join(_lines(self)) + "\n"


class Edges:
    """Who makes and who reads each value of a verified graph, and which operation comes when.

    `pairs(gate, up)`: whether a product of several rows takes two matrices for one result; by default none does.
    """

    __slots__ = ("_at", "_makers", "_readers", "pairs")

    def __init__(self, graph: Graph, pairs: Pairs = lambda gate, up: False) -> None:
        self.pairs = pairs
        self._makers = {op.out: op for op in graph.ops}
        self._at = {op: at for at, op in enumerate(graph.ops)}
        self._readers: dict[Value, dict[Op, None]] = {op.out: {} for op in graph.ops}
        for op in graph.ops:
            for value in inputs(op):
                self._readers[value][op] = None

    def maker(self, value: Value) -> Op:
        """The operation whose result it is."""
        return self._makers[value]

    def readers(self, value: Value) -> tuple[Op, ...]:
        """The operations that read it, each once, in order."""
        return tuple(self._readers[value])

    def only_reader(self, value: Value) -> Op | None:
        """The one operation that reads it; None if several do, or none."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 else None

    def at(self, op: Op) -> int:
        """The operation's place in the order of execution."""
        return self._at[op]


def _lines(graph: Graph) -> Iterator[str]:
    for op in graph.ops:
        arguments = [value.name for value in inputs(op)] + [weight.name for weight in weights(op)]
        yield f"{op.out.name}[{op.out.width}] = {type(op).__name__}({', '.join(arguments)})"


def verify(graph: Graph) -> Graph:
    """The same graph; GraphError if a value is used before it is defined, defined twice, or shapes do not fit."""
    defined: dict[str, Value] = {}
    known: dict[str, Weight] = {}
    for op in graph.ops:
        where = label(op)
        for value in inputs(op):
            if defined.get(value.name) != value:
                raise GraphError(f"{where}: reads {value.name}[{value.width}], which no earlier operation defines")
        for weight in weights(op):
            if known.setdefault(weight.name, weight) != weight:
                raise GraphError(f"{where}: weight {weight.name} has two shapes")
            if weight.experts > weight.rows:
                raise GraphError(f"{where}: weight {weight.name} has fewer rows than experts")
        if op.out.name in defined:
            raise GraphError(f"{where}: is defined twice")
        if not op.fits():
            raise GraphError(f"{where}: shapes do not fit")
        defined[op.out.name] = op.out
    return graph
