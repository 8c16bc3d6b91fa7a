"""Which experts a token goes to, and what each counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats


@dataclass(frozen=True, slots=True)
class Route(Op):
    """The experts with the largest logits, largest first and of equals the lower number, and then their shares.

    `out`: the experts' numbers, which floats hold exactly, and behind them as many shares: the softmax over all
    experts; `normalise`: over those chosen. `others`: the last of `logits`, which are no expert's.
    """

    logits: Value
    normalise: bool = True
    others: int = 0

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.logits.width - self.others

    @property
    def used(self) -> int:
        """How many are chosen."""
        return self.out.width // 2

    def fits(self) -> bool:
        return self.out.width % 2 == 0 and 0 < self.used <= self.experts <= self.logits.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        logits = read[0][:, : self.experts]
        chosen = np.argsort(-logits, axis=1, kind="stable")[:, : self.used]
        weights = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
        shares = np.take_along_axis(weights, chosen, axis=1)
        shares /= (shares if self.normalise else weights).sum(axis=1, keepdims=True)
        return floats(np.concatenate([chosen, shares], axis=1))
