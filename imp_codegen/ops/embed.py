"""The embedding row of each token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Weight


@dataclass(frozen=True, slots=True)
class Embed(Op):
    """out = the embedding row of each token * scale."""

    weight: Weight
    scale: float = 1.0

    def fits(self) -> bool:
        return self.out.width == self.weight.cols and not self.weight.experts

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        rows = np.concatenate([at.rows(self.weight, int(t), int(t) + 1) for t in at.tokens])
        return rows * np.float32(self.scale)
