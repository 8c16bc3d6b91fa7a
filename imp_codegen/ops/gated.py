"""The inner vector of a gated feed-forward network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats
from imp_codegen.spec import Activation


def activate(x: Floats, activation: Activation) -> Floats:
    """silu: x / (1 + e^-x); gelu: x * Phi(x), with tanh in Phi's place if said so (Hendrycks and Gimpel, 2016)."""
    if activation == "silu":
        return floats(x / (1 + np.exp(-x)))
    if activation == "gelu":
        erf = np.vectorize(math.erf, otypes=[np.float64])
        return floats(0.5 * x * (1 + erf(x / math.sqrt(2))))
    return floats(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


@dataclass(frozen=True, slots=True)
class Gated(Op):
    """out = activation(gate) * up, of which the elements from `begin` on are taken."""

    gate: Value
    up: Value
    activation: Activation = "silu"
    begin: int = 0

    def fits(self) -> bool:
        return self.out.width == self.gate.width and 0 <= self.begin <= self.up.width - self.out.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return activate(read[0], self.activation) * read[1][:, self.begin : self.begin + self.out.width]
