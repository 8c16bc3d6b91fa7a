"""RMS norm of each head by itself."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight
from imp_codegen.ops.rms_norm import rms_norm


@dataclass(frozen=True, slots=True)
class HeadNorm(Op):
    """RmsNorm of each head of `head_dim` elements by itself, with one weight for all heads, or none."""

    x: Value
    weight: Weight | None
    head_dim: int
    eps: float

    def fits(self) -> bool:
        weight = self.weight
        fits = weight is None or (weight.rows, weight.cols) == (1, self.head_dim)
        return fits and self.out.width == self.x.width and self.out.width % self.head_dim == 0

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        heads = rms_norm(read[0].reshape(len(read[0]), -1, self.head_dim), self.eps)
        return (heads * at.vector(self.weight) if self.weight else heads).reshape(read[0].shape)
