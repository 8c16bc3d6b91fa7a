"""RMS norm of a whole vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight, floats


def rms_norm(x: Floats, eps: float) -> Floats:
    """X / sqrt(mean(x^2) + eps) along the last axis."""
    return floats(x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps)))


@dataclass(frozen=True, slots=True)
class RmsNorm(Op):
    """out = x / sqrt(mean(x^2) + eps) * weight; without a weight, times 1."""

    x: Value
    weight: Weight | None
    eps: float

    def fits(self) -> bool:
        weight_fits = self.weight is None or (self.weight.rows, self.weight.cols) == (1, self.x.width)
        return weight_fits and self.out.width == self.x.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        normed = rms_norm(read[0], self.eps)
        return normed * at.vector(self.weight) if self.weight else normed
