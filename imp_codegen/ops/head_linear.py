"""A matrix of its own for every head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight


@dataclass(frozen=True, slots=True)
class HeadLinear(Op):
    """Of every head h: out[h] = weight[h] x[h], the heads' matrices one below the other in `weight`.

    `x` is not rounded, whatever the format of the weights.
    """

    x: Value
    weight: Weight
    heads: int

    def fits(self) -> bool:
        weight, heads = self.weight, self.heads
        return self.out.width == weight.rows and self.x.width == heads * weight.cols and weight.rows % heads == 0

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        rows = self.weight.rows // self.heads
        parts = np.split(read[0], self.heads, axis=1)
        return np.concatenate(
            [x @ at.rows(self.weight, h * rows, (h + 1) * rows).T for h, x in enumerate(parts)], axis=1
        )
