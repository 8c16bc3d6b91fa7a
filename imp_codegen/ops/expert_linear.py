"""The matrices of those experts that a token goes to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight


@dataclass(frozen=True, slots=True)
class ExpertLinear(Op):
    """out = x @ matrix.T of each expert of the route, side by side in its order.

    `x`: one vector for all of them, or one for each, side by side. `bias`: those of all experts, one after the other.
    """

    x: Value
    route: Value
    weight: Weight
    bias: Weight | None = None

    @property
    def used(self) -> int:
        """How many experts a token goes to."""
        return self.route.width // 2

    def fits(self) -> bool:
        weight = self.weight
        stacked = weight.experts >= self.used > 0 and weight.rows % weight.experts == 0
        inputs = self.x.width in (weight.cols, self.used * weight.cols)
        bias = self.bias is None or (self.bias.rows, self.bias.cols) == (1, weight.rows)
        return stacked and inputs and bias and self.route.width % 2 == 0 and self.out.width == self.used * weight.each

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        x, route = read
        chosen = route[:, : self.used].astype(np.int64)
        vectors = np.broadcast_to(x.reshape(len(x), -1, self.weight.cols), (*chosen.shape, self.weight.cols))
        out = np.empty((*chosen.shape, self.weight.each), np.float32)
        for expert in np.unique(chosen):
            here = chosen == expert
            out[here] = at.product(vectors[here], self.weight, int(expert))
        if self.bias:
            out += at.vector(self.bias).reshape(-1, self.weight.each)[chosen]
        return out.reshape(len(x), -1)
