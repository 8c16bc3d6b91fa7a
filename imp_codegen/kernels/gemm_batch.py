"""Matrix products of a row each of a few sequences (stage/gemm_batch.h): weights pass through once."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.batch_product import GROUP, ROWS, BatchStage
from imp_codegen.kernels.kernel_spec import Config, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Tiles

_WARPS = 16  # of a CTA
_BLOCK_ROWS = ROWS * _WARPS  # of a matrix, that a CTA has
_MOST_STRETCHES = 16
_MOST_ITEMS = 512  # stretches of a CTA's rows: what is left of them in memory is 32 MB with 64 rows
_STRETCH = 1.0  # of a group's time: what a stretch costs beside its groups
_RING = 98 << 10  # bytes of activations on their way through shared memory at most
_MOST_STAGES = 8
_SLOTS = {8: 2, 16: 1, 32: 1, 64: 1}  # by rows: groups whose weights a warp has asked for at once, as registers allow


def takes(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether it is a step of few sequences, and halfs can hold the weights."""
    fits = all(low.layout(w).halfs and low.tile(w).cols % 32 == 0 for w in weights)
    return low.batch and low.rows in _SLOTS and fits


def gemm(
    low: Lowering,
    linears: tuple[Linear, ...],
    add: Add | None = None,
    *,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> KernelSpec:
    """One launch, as BatchStage.product says it."""
    weights = tuple(op.weight for op in linears)
    groups = -(-weights[0].cols // GROUP)
    row_tiles = sum(-(-weight.rows // _BLOCK_ROWS) for weight in weights)
    stretches, stages = _stretches(low.target.sms, row_tiles, groups), _stages(low)
    grid = min(low.target.sms, row_tiles * stretches)
    stage = BatchStage(
        name="GemmBatch",
        header="stage/gemm_batch",
        config=Config("BatchConfig", (("warps", _WARPS), ("slots", _SLOTS[low.rows]), ("stages", stages))),
        stretches=stretches,
        places=row_tiles * _WARPS,
        grid=grid,
        warps=_WARPS,
        shared_bytes=_shared_bytes(low.rows, stages),
        tiles=Tiles(
            f"half batch {low.rows}",
            "f16",
            2 * _BLOCK_ROWS * low.rows * GROUP,
            -(-row_tiles * stretches // grid) * -(-groups // stretches),
        ),
    )
    return stage.product(low, linears, add, out=out, scale=scale, cap=cap)


def _stretches(sms: int, row_tiles: int, groups: int) -> int:
    """Parts of the columns with which the waves of CTAs take the least time."""

    def cost(stretches: int) -> float:
        return -(-row_tiles * stretches // sms) * (-(-groups // stretches) + _STRETCH)

    most = min(_MOST_STRETCHES, groups, _MOST_ITEMS // row_tiles)
    return min(range(1, most + 1), key=cost, default=1)


def _stages(low: Lowering) -> int:
    """Groups of activations that there is room for."""
    room = min(_RING, low.target.max_shared)
    return next(n for n in range(_MOST_STAGES, 0, -1) if n == 1 or _shared_bytes(low.rows, n) <= room)


def _shared_bytes(rows: int, stages: int) -> int:
    """Groups of activations; barriers that each is there and that a warp has read it. The emitted source asserts it."""
    return stages * (rows * GROUP * 2 + (1 + _WARPS) * 8)
