"""A vector times a number that the checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight


@dataclass(frozen=True, slots=True)
class ScaleBy(Op):
    """out = x times the one element of `weight`."""

    x: Value
    weight: Weight

    def fits(self) -> bool:
        return self.out.width == self.x.width and (self.weight.rows, self.weight.cols) == (1, 1)

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return at.vector(self.weight) * read[0]
