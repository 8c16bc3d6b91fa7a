"""Matrix products of a row each of a few sequences (stage/gemm_batch.h): weights pass through once."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import factors, panel_buffer
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, biases, name_of_all
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

_GROUP = 128  # columns that a warp multiplies at a time
_STRETCHES = 8  # parts of the columns, whatever the rows: their order decides the last bits of a sum
_ROWS = 16  # of a matrix, the least that a warp takes


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a CTA multiplies so many rows: its warps, tiles of 16 of a matrix's rows a warp, groups asked for at once."""

    warps: int
    tiles: int
    slots: int


_TILINGS = {8: Tiling(8, 1, 4), 16: Tiling(16, 1, 2), 32: Tiling(8, 2, 2), 64: Tiling(8, 2, 1)}


def takes(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether it is a step of few sequences, and halfs can hold the weights."""
    fits = all(low.layout(w).halfs and low.tile(w).cols % 32 == 0 for w in weights)
    return low.batch and low.rows in _TILINGS and fits


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
    tiling, stretches = _TILINGS[rows], min(_STRETCHES, _power_of_two(-(-cols // _GROUP)))
    block_rows = tiling.warps // stretches * tiling.tiles * _ROWS
    shared, resident = _shared_bytes(low, cols, stretches, block_rows)
    config = Config(
        "BatchConfig",
        (
            ("cols", cols),
            ("rows", rows),
            ("warps", tiling.warps),
            ("stretches", stretches),
            ("tiles", tiling.tiles),
            ("slots", tiling.slots),
            ("resident", resident),
            ("stride", place.stride),
            ("offset", place.column),
            ("accumulate", add is not None),
            ("biased", bias_mask(linears)),
            ("scale", float(add.scale if add else scale)),
            ("cap", cap),
        ),
    )
    total = sum(weight.rows for weight in weights)
    row_tiles = sum(-(-weight.rows // block_rows) for weight in weights)
    grid = min(low.target.sms, row_tiles)
    steps = -(-row_tiles // grid) * -(-cols // _GROUP)
    return KernelSpec(
        name=name_of_all(linears),
        entry="gemm",
        headers=("stage/gemm_batch", *low.headers(*weights)),
        stage=Cpp("GemmBatch", (config, *map(low.matrix, weights))),
        args={
            "fragments": Param("const std::uint8_t*", panel_buffer(low, cols)),
            "factors": Param("const float*", factors(low)),
            "plane": tuple(map(low.plane, weights)),
            "bias": biases(low, linears),
            "y": Param("float*", Binding(place.buffer)),
            "step": low.step(),
        },
        grid=(grid, 1, 1),
        threads=tiling.warps * 32,
        shared_bytes=shared,
        overlap=True,
        ops=tuple(map(label, (*linears, add) if add else linears)),
        outputs=tuple(output for value in outs for output in low.output(value)),
        weight_bytes=low.weight_bytes(*weights),
        other_bytes=rows * (cols * 2 + total * 4),
        tiles=Tiles(f"half batch {rows}", "f16", 2 * block_rows * rows * _GROUP, steps),
        flops=2 * rows * total * cols,
    )


def _power_of_two(most: int) -> int:
    """The largest up to `most`."""
    return 1 << most.bit_length() - 1


def _shared_bytes(low: Lowering, cols: int, stretches: int, block_rows: int) -> tuple[int, bool]:
    """Of the sums of all stretches and, where there is room, of the activations; the emitted source asserts it."""
    sums = stretches * low.rows * (block_rows + 4) * 4
    copied = -(-cols // _GROUP) * _GROUP * low.rows * 2 + stretches * 8
    resident = sums + copied <= low.target.max_shared
    return sums + copied * resident, resident
