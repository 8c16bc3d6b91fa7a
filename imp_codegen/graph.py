"""The graph: typed operations in SSA form, one token's width per value.

A value is a float32 vector for each token of the step, so a shape is one number, the width. Weights are referred to by
the name of their tensor. `verify` checks what an architecture has built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from imp_codegen.spec import RopeSpec


class GraphError(AssertionError):
    """A pass produced a graph that is not well formed: a defect of the compiler."""


@dataclass(frozen=True, slots=True)
class Value:
    """The result of one operation, float32[tokens, width]."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint: [rows, cols], or a vector with rows = 1."""

    name: str
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Embed:
    """out = the embedding row of each token."""

    out: Value
    weight: Weight


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """out = x / sqrt(mean(x^2) + eps) * weight."""

    out: Value
    x: Value
    weight: Weight
    eps: float


@dataclass(frozen=True, slots=True)
class Linear:
    """out = x @ weight.T (+ bias)."""

    out: Value
    x: Value
    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RmsNorm of each head of `head_dim` elements by itself, with one weight for all heads."""

    out: Value
    x: Value
    weight: Weight
    head_dim: int
    eps: float


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of every head of x at the token's position."""

    out: Value
    x: Value
    head_dim: int
    rope: RopeSpec


@dataclass(frozen=True, slots=True)
class Attention:
    """Appends k and v to the cache of `layer` and attends over it: softmax(scale * q k^T) v, causal."""

    out: Value
    q: Value
    k: Value
    v: Value
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float


@dataclass(frozen=True, slots=True)
class Gated:
    """out = silu(gate) * up."""

    out: Value
    gate: Value
    up: Value


@dataclass(frozen=True, slots=True)
class Add:
    """out = x + y."""

    out: Value
    x: Value
    y: Value


@dataclass(frozen=True, slots=True)
class Sample:
    """The next token from the logits; `out` is its id (width 1)."""

    out: Value
    logits: Value


Op = Embed | RmsNorm | Linear | HeadNorm | Rope | Attention | Gated | Add | Sample


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

    def ropes(self) -> tuple[RopeSpec, ...]:
        """Every different rotary embedding, in order of first use."""
        return tuple(dict.fromkeys(op.rope for op in self.ops if isinstance(op, Rope)))

    def dump(self) -> str:
        """One line for each operation."""
        return "\n".join(_lines(self)) + "\n"


class Edges:
    """Who makes and who reads each value of a verified graph."""

    __slots__ = ("_makers", "_readers")

    def __init__(self, graph: Graph) -> None:
        self._makers = {op.out: op for op in graph.ops}
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
        if op.out.name in defined:
            raise GraphError(f"{where}: is defined twice")
        problem = _misfit(op)
        if problem:
            raise GraphError(f"{where}: {problem}")
        defined[op.out.name] = op.out
    return graph


def _misfit(op: Op) -> str:
    """What does not fit between an operation's shapes, or nothing."""
    out = op.out.width
    match op:
        case Embed(weight=weight):
            fits = out == weight.cols
        case RmsNorm(x=x, weight=weight):
            fits = out == x.width == weight.cols and weight.rows == 1
        case Linear(x=x, weight=weight, bias=bias):
            fits = (
                out == weight.rows and x.width == weight.cols and (bias is None or (bias.rows, bias.cols) == (1, out))
            )
        case HeadNorm(x=x, weight=weight, head_dim=dim):
            fits = out == x.width and out % dim == 0 and (weight.rows, weight.cols) == (1, dim)
        case Rope(x=x, head_dim=dim, rope=rope):
            fits = out == x.width and out % dim == 0 and rope.dim <= dim
        case Attention(q=q, k=k, v=v, heads=heads, kv_heads=kv_heads, head_dim=dim):
            fits = out == q.width == heads * dim and k.width == v.width == kv_heads * dim and heads % kv_heads == 0
        case Gated(gate=gate, up=up):
            fits = out == gate.width == up.width
        case Add(x=x, y=y):
            fits = out == x.width == y.width
        case Sample():
            fits = out == 1
    return "" if fits else "shapes do not fit"
