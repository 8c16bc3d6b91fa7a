"""What the experts of a token make together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.graph import Evaluation, Floats, Op, Value, floats


@dataclass(frozen=True, slots=True)
class Combine(Op):
    """out = the sum of x, a vector for each expert of the route, side by side, each times the expert's share."""

    x: Value
    route: Value

    def fits(self) -> bool:
        used = self.route.width // 2
        return self.route.width % 2 == 0 and used > 0 and self.x.width == used * self.out.width

    def evaluate(self, at: Evaluation, *read: Floats) -> Floats:
        x, route = read
        shares = route[:, route.shape[1] // 2 :]
        return floats(np.einsum("nu,nuw->nw", shares, x.reshape(*shares.shape, -1)))
