"""Matrix products of 32 or 64 rows by warpgroups (stage/gemm_batch_wgmma.h)."""

from __future__ import annotations

from imp_codegen.graph import Value
from imp_codegen.kernels.batch_product import GROUP, ROWS, BatchStage, Order, row_tiles
from imp_codegen.kernels.kernel_spec import Config, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Tiles

_RING = 200 << 10  # bytes of activations on their way through shared memory at most
_MOST_GROUPS = 16  # of them


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
    warps, stretches = order.tile_warps, order.held * order.parts
    tiles = row_tiles(low, weights, warps * ROWS)
    groups = order.warps * order.chain // order.parts  # of a stretch
    step = max(order.chain, 2)  # groups that are copied together
    piece = step * low.rows * GROUP * 2 + (1 + warps) * 8  # bytes: activations and barriers
    stays = groups // step <= _RING // piece and stretches <= low.target.sms
    stages = groups // step if stays else min(_MOST_GROUPS // step, _RING // piece)
    ctas = low.target.sms // stretches * stretches if stays else low.target.sms
    grid = min(ctas, tiles * stretches)
    stage = BatchStage(
        name="GemmBatchWgmma",
        header="stage/gemm_batch_wgmma",
        config=Config(
            "BatchWgmmaConfig",
            (
                ("warps", warps),
                ("stages", stages),
                ("stays", stays),
                ("chain", order.chain),
                ("fold", order.parts),
            ),
        ),
        stretches=stretches,
        places=tiles * warps,
        grid=grid,
        warps=warps,
        shared_bytes=stages * piece,
        tiles=Tiles(
            f"half batch {low.rows} wgmma",
            "f16",
            2 * warps * ROWS * low.rows * GROUP,
            -(-tiles * stretches // grid) * groups,
        ),
    )
    return stage.product(low, linears, add, out=out, scale=scale, cap=cap)
