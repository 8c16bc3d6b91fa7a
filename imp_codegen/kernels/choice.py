"""Of several ways to compute the same thing, the one that should take least time on the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.predict import predict_us

Way = Callable[[Lowering], tuple[KernelSpec, ...]]


def cheapest(low: Lowering, ways: Sequence[Way], doubts: Sequence[float] = ()) -> tuple[KernelSpec, ...]:
    """The kernels of that way by the cost model; of the first where times mean nothing.

    `doubts`: of each way, by what its predicted time is multiplied, as measurements say. Only what is taken asks for
    buffers. Ways may add up in another order, so the choice, as the number of rows itself, can turn a rounding.
    """
    card = low.target.card
    if len(ways) == 1 or card.speed is None:
        return ways[0](low)
    rated = zip(ways, doubts or [1.0] * len(ways), strict=True)
    return min(
        rated, key=lambda way: way[1] * predict_us(card, way[0](replace(low, buffers={}, streams={})), low.rows)
    )[0](low)


def each_row(name: str, way: Callable[[Lowering], KernelSpec]) -> Way:
    """A way of several rows by a kernel of one: for every row in turn, each of which reads all weights.

    `name`: of what they make together. The last leaves what a kernel of several rows would.
    """

    def lower(low: Lowering) -> tuple[KernelSpec, ...]:
        *others, last = (replace(way(low.row(i)), name=f"{name}.{i}") for i in range(low.rows))
        return (*(replace(kernel, outputs=()) for kernel in others), replace(last, outputs=way(low).outputs))

    return lower
