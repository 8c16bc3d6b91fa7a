"""Which experts a token goes to, and what each counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, Weight, floats


@dataclass(frozen=True, slots=True)
class Route(Op):
    """The experts with the largest scores, largest first and of equals the lower number, and then their shares.

    `out`: the experts' numbers, which floats hold exactly, and behind them as many shares. Scores are the softmax over
    all experts or, with `sigmoid`, that of each logit. A share is the score times `scale`, with `normalise` divided by
    the sum of the scores that are chosen. `correction` [1, experts] is added to scores while experts are chosen;
    `scales` [1, experts] multiply shares in the end.
    `others`: the last of `logits`, which are no expert's.

    Experts are chosen from the best `groups_used` of `groups` groups of neighbours: a group is as good as its best
    expert or, with `sigmoid`, its best two together (transformers, models/deepseek_v2 and deepseek_v3).
    """

    logits: Value
    normalise: bool = True
    sigmoid: bool = False
    correction: Weight | None = None
    groups: int = 1
    groups_used: int = 1
    scale: float = 1.0
    others: int = 0
    scales: Weight | None = None

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.logits.width - self.others

    @property
    def used(self) -> int:
        """How many are chosen."""
        return self.out.width // 2

    def fits(self) -> bool:
        experts, correction = self.experts, self.correction
        if not 0 < experts <= self.logits.width or not 0 < self.groups_used <= self.groups or experts % self.groups:
            return False
        each = experts // self.groups
        corrected = correction is None or (self.sigmoid and (correction.rows, correction.cols) == (1, experts))
        scaled = self.scales is None or (self.scales.rows, self.scales.cols) == (1, experts)
        pairs = self.groups == 1 or not self.sigmoid or each > 1
        return corrected and scaled and pairs and self.out.width % 2 == 0 and 0 < self.used <= self.groups_used * each

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        logits = read[0][:, : self.experts]
        if self.sigmoid:
            scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
            by = floats(scores) + (at.vector(self.correction) if self.correction else np.float32(0))
        else:
            scores = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
            scores /= scores.sum(axis=1, keepdims=True)
            by = logits
        chosen = np.argsort(-self._of_groups(by), axis=1, kind="stable")[:, : self.used]
        shares = np.take_along_axis(scores, chosen, axis=1)
        if self.normalise:
            shares /= shares.sum(axis=1, keepdims=True)
        shares *= self.scale
        if self.scales:
            shares *= at.vector(self.scales)[chosen]
        return floats(np.concatenate([chosen, shares], axis=1))

    def _of_groups(self, by: Floats) -> Floats:
        """What experts are chosen by, -inf for those of other groups."""
        if self.groups == 1:
            return by
        grouped = by.reshape(len(by), self.groups, -1)
        best = np.sort(grouped, axis=2)[..., -2 if self.sigmoid else -1 :].sum(axis=2)
        kept = np.argsort(-best, axis=1, kind="stable")[:, : self.groups_used]
        found = np.full_like(grouped, -np.inf)
        np.put_along_axis(found, kept[..., None], np.take_along_axis(grouped, kept[..., None], axis=1), axis=1)
        return found.reshape(by.shape)
