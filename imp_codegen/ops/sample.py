"""The end of a step."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats


@dataclass(frozen=True, slots=True)
class Sample(Op):
    """The next token from the logits; `out` is its id (width 1). Here, the likeliest."""

    logits: Value

    def fits(self) -> bool:
        return self.out.width == 1

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return floats(read[0].argmax(axis=1, keepdims=True))
