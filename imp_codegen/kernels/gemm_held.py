"""Matrix products of up to 16 rows whose activations stay in registers (stage/gemm_held.h)."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.batch_product import GROUP, ROWS, BatchStage, Order, unit_bytes
from imp_codegen.kernels.kernel_spec import Config, KernelSpec
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.ops import Add, Linear
from imp_codegen.targets import TargetError
from imp_runtime.plan import Tiles

MOST_ROWS = 16
_MOST_SLOTS = 3  # units in shared memory: what is in flight beyond does not make it faster
_HELPERS = 4  # warps that multiply nothing: one has units copied, up to three add up sums, each those of a buffer


def gemm(
    low: Lowering,
    order: Order,
    linears: tuple[Linear, ...],
    add: Add | None = None,
    *,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> KernelSpec:
    """One launch, as BatchStage.product says it."""
    weights = tuple(op.weight for op in linears)
    units = sum(-(-weight.rows // ROWS) for weight in weights)
    grid = min(low.target.sms // order.held, units) * order.held
    slots, buffers = _rings(low, order, weights)
    stage = BatchStage(
        name="GemmHeld",
        header="stage/gemm_held",
        config=Config(
            "HeldConfig",
            (
                ("warps", order.warps),
                ("slots", slots),
                ("buffers", buffers),
                ("fold", order.warps // order.parts),
            ),
        ),
        stretches=order.held,
        places=units,
        grid=grid,
        warps=round_up(order.warps, 4) + _HELPERS,
        shared_bytes=_shared_bytes(low, order, weights, slots, buffers),
        tiles=Tiles(
            f"half held {low.rows}",
            "f16",
            2 * ROWS * low.rows * GROUP,
            -(-units * order.held // grid) * order.warps * order.chain,
        ),
    )
    return stage.product(low, linears, add, out=out, scale=scale, cap=cap)


def _rings(low: Lowering, order: Order, weights: tuple[Weight, ...]) -> tuple[int, int]:
    """Units that there is room for, and of how many the sums: of as many as fit beside three units.

    TargetError where there is none for two.
    """
    room = low.target.max_shared
    fits = [
        (slots, buffers)
        for slots in range(2, _MOST_SLOTS + 1)
        for buffers in (1, 2, 3)
        if _shared_bytes(low, order, weights, slots, buffers) <= room
    ]
    if not fits:
        raise TargetError(
            f"{low.target.name} has {room:,} bytes of shared memory, products of {low.rows} sequences take "
            f"{_shared_bytes(low, order, weights, 2, 1):,}"
        )
    return max(fits, key=lambda ring: (min(ring[0], 3), ring[1], ring[0]))


def _shared_bytes(low: Lowering, order: Order, weights: tuple[Weight, ...], slots: int, buffers: int) -> int:
    """Units and the warps' sums; barriers: a copy is there, a warp has read it, has left sums, all are added up."""
    slot = round_up(max(unit_bytes(low, weight, order.held) for weight in weights), 128)
    copies = 1 if order.held == 1 else max(ROWS // low.tile(weight).rows for weight in weights)
    sums = order.warps * low.rows * ROWS * 4
    barriers = slots * (copies + order.warps) + buffers * (order.warps + 1)
    return slots * slot + buffers * sums + barriers * 8
