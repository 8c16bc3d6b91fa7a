"""Matrix products of a row each of a few sequences (stage/gemm_batch.h): weights pass through once."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import factors, panel_buffer
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, biases, name_of_all
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

_GROUP = 128  # columns that a warp multiplies at a time
_WARPS = 16  # of a CTA
_BLOCK_ROWS = 16 * _WARPS  # of a matrix, that a CTA has
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
    """One launch, whose results lie side by side; with `add` added to what lies where the one result goes.

    `out`: the one result of what `scale` and a soft `cap` (0: none) stand for.
    """
    outs = (add.out,) if add else (out,) if out else tuple(op.out for op in linears)
    weights = tuple(op.weight for op in linears)
    rows, cols, place = low.rows, weights[0].cols, low.places[outs[0]]
    groups = -(-cols // _GROUP)
    row_tiles = sum(-(-weight.rows // _BLOCK_ROWS) for weight in weights)
    stretches, stages = _stretches(low.target.sms, row_tiles, groups), _stages(low)
    grid = min(low.target.sms, row_tiles * stretches)
    config = Config(
        "BatchConfig",
        (
            ("cols", cols),
            ("rows", rows),
            ("warps", _WARPS),
            ("slots", _SLOTS[rows]),
            ("stages", stages),
            ("stretches", stretches),
            ("stride", place.stride),
            ("offset", place.column),
            ("accumulate", add is not None),
            ("biased", bias_mask(linears)),
            ("scale", float(add.scale if add else scale)),
            ("cap", cap),
        ),
    )
    total = sum(weight.rows for weight in weights)
    split = row_tiles * stretches if stretches > 1 else 1
    return KernelSpec(
        name=name_of_all(linears),
        entry="gemm",
        headers=("stage/gemm_batch", *low.headers(*weights)),
        stage=Cpp("GemmBatch", (config, *map(low.matrix, weights))),
        args={
            "fragments": Param("const std::uint8_t*", panel_buffer(low, rows, cols)),
            "factors": Param("const float*", factors(low, rows)),
            "plane": tuple(map(low.plane, weights)),
            "bias": biases(low, linears),
            "y": Param("float*", Binding(place.buffer)),
            "step": low.step(),
            "partial": Param("float4*", low.buffer("batch.partials", split * rows * _BLOCK_ROWS * 4)),
            "arrived": Param("std::uint32_t*", low.buffer("batch.arrivals", row_tiles * _WARPS * 4)),
        },
        grid=(grid, 1, 1),
        threads=_WARPS * 32,
        shared_bytes=_shared_bytes(rows, stages),
        overlap=True,
        ops=tuple(map(label, (*linears, add) if add else linears)),
        outputs=tuple(output for value in outs for output in low.output(value)),
        weight_bytes=low.weight_bytes(*weights),
        other_bytes=rows * (cols * 2 + total * 4) + 2 * (split * rows * _BLOCK_ROWS * 4 if stretches > 1 else 0),
        tiles=Tiles(
            f"half batch {rows}",
            "f16",
            2 * _BLOCK_ROWS * rows * _GROUP,
            -(-row_tiles * stretches // grid) * -(-groups // stretches),
        ),
        flops=2 * rows * total * cols,
    )


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
    return stages * (rows * _GROUP * 2 + (1 + _WARPS) * 8)
