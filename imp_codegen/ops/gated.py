"""The inner vector of a gated feed-forward network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats
from imp_codegen.spec import Activation


def gated(gate: Floats, up: Floats, activation: Activation) -> Floats:
    """A function of the gate, times up.

    silu: x / (1 + e^-x); gelu: x * Phi(x), with tanh in Phi's place if said so (Hendrycks and Gimpel, 2016);
    clamped_silu: x / (1 + e^-1.702x) of x = min(gate, 7), times 1 + up, up clipped to -7..7 (transformers,
    modeling_gpt_oss.py).
    """
    x = gate
    match activation:
        case "silu":
            return floats(x / (1 + np.exp(-x))) * up
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float64])
            return floats(0.5 * x * (1 + erf(x / math.sqrt(2)))) * up
        case "gelu_tanh":
            return floats(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))) * up
        case "clamped_silu":
            x = np.minimum(x, 7)
            return floats(x / (1 + np.exp(-1.702 * x))) * (np.clip(up, -7, 7) + 1)


@dataclass(frozen=True, slots=True)
class Gated(Op):
    """out = activation(gate) * up (see `gated`), of which the elements from `begin` on are taken."""

    gate: Value
    up: Value
    activation: Activation = "silu"
    begin: int = 0

    def fits(self) -> bool:
        return self.out.width == self.gate.width and 0 <= self.begin <= self.up.width - self.out.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        return gated(read[0], read[1][:, self.begin : self.begin + self.out.width], self.activation)
