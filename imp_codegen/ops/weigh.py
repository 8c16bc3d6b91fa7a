"""A vector times what one element of another says it counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats


@dataclass(frozen=True, slots=True)
class Weigh(Op):
    """out = x times the sigmoid of the element `at` of `gate`."""

    x: Value
    gate: Value
    at: int

    def fits(self) -> bool:
        return self.out.width == self.x.width and 0 <= self.at < self.gate.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        x, gate = read
        return floats(x / (1 + np.exp(-gate[:, self.at : self.at + 1].astype(np.float64))))
