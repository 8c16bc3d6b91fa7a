"""Rotary embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Graph, Op, Value, floats
from imp_codegen.rope import RopeSpec, rope_turns


@dataclass(frozen=True, slots=True)
class Rope(Op):
    """Rotary embedding of the first `rope.dim` elements of every head of x, at the token's position."""

    x: Value
    head_dim: int
    rope: RopeSpec

    def fits(self) -> bool:
        width = self.out.width
        return width == self.x.width and width % self.head_dim == 0 and self.rope.dim <= self.head_dim

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        (x,), rope = read, self.rope
        positions = at.positions.astype(np.uint64)
        fraction = (rope_turns(rope)[None, :] * positions[:, None]).astype(np.uint64)  # wraps: a fraction of a turn
        angle = fraction.astype(np.float64) * (2 * np.pi / 2**64)
        cos, sin = (rope.magnitude * f(angle)[:, None, :] for f in (np.cos, np.sin))
        heads = x.reshape(len(x), -1, self.head_dim).astype(np.float64)
        out = heads.copy()
        half = rope.dim // 2
        pairs = (
            (np.s_[..., 0 : rope.dim : 2], np.s_[..., 1 : rope.dim : 2])
            if rope.interleaved
            else (np.s_[..., :half], np.s_[..., half : rope.dim])
        )
        first, second = (heads[pair] for pair in pairs)
        out[pairs[0]], out[pairs[1]] = first * cos - second * sin, second * cos + first * sin
        return floats(out.reshape(x.shape))


def ropes(graph: Graph) -> tuple[RopeSpec, ...]:
    """Every different rotary embedding of a graph, in order of first use."""
    return tuple(dict.fromkeys(op.rope for op in graph.ops if isinstance(op, Rope)))
