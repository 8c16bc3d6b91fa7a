"""A vector times a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value


@dataclass(frozen=True, slots=True)
class Scale(Op):
    """out = factor * x."""

    x: Value
    factor: float

    def fits(self) -> bool:
        return self.out.width == self.x.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return np.float32(self.factor) * read[0]
