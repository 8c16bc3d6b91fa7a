"""The sum of two vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value


@dataclass(frozen=True, slots=True)
class Add(Op):
    """out = x + scale * y."""

    x: Value
    y: Value
    scale: float = 1.0

    def fits(self) -> bool:
        return self.out.width == self.x.width == self.y.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return read[0] + np.float32(self.scale) * read[1]
