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
    """out = x / sqrt(mean(x^2) + eps) * weight."""

    x: Value
    weight: Weight
    eps: float

    def fits(self) -> bool:
        return self.out.width == self.x.width == self.weight.cols and self.weight.rows == 1

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return rms_norm(read[0], self.eps) * at.vector(self.weight)
