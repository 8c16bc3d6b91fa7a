"""Heads made of two parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value


@dataclass(frozen=True, slots=True)
class Join(Op):
    """Every head of `out` is that head of `first`, then that of `second`."""

    first: Value
    second: Value
    heads: int

    def fits(self) -> bool:
        widths = self.first.width, self.second.width
        whole = self.heads > 0 and all(width % self.heads == 0 for width in widths)
        return whole and self.out.width == sum(widths)

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        first, second = (x.reshape(len(x), self.heads, -1) for x in read)
        return np.concatenate([first, second], axis=2).reshape(len(first), -1)
