"""A matrix times a vector."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """out = x @ weight.T (+ bias)."""

    x: Value
    weight: Weight
    bias: Weight | None = None

    def fits(self) -> bool:
        bias_fits = self.bias is None or (self.bias.rows, self.bias.cols) == (1, self.out.width)
        one = not self.weight.experts
        return one and bias_fits and self.out.width == self.weight.rows and self.x.width == self.weight.cols

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        product = at.product(read[0], self.weight)
        return product + at.vector(self.bias) if self.bias else product
