"""A soft cap, as Gemma 2 introduced it for logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats


@dataclass(frozen=True, slots=True)
class Softcap(Op):
    """out = cap * tanh(x / cap)."""

    x: Value
    cap: float

    def fits(self) -> bool:
        return self.out.width == self.x.width and self.cap > 0

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return floats(self.cap * np.tanh(read[0] / self.cap))
