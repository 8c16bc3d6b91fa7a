"""Matrix products of several rows by warpgroups (stage/gemm_wgmma.h): weights become halfs in registers."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import factors, panel_buffer
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, biases, name_of_all
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

_ROWS = 128  # of a tile: two warpgroups, 64 each
_THREADS = 384
_TOKENS = {
    256: 1.0,
    128: 0.65,
    64: 0.55,
}  # of a tile, and the time that it takes (H100): the narrower, the less is hidden
_LINE = 128  # bytes of a token in a panel, of 64 columns
_RING = 192 << 10  # bytes of panels in flight at most
_MOST_STAGES = 8


def takes(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether the target has such products and they can hold the weights."""
    fits = all(low.layout(w).halfs and low.tile(w).cols % 32 == 0 for w in weights)
    return low.target.wgmma and fits and low.rows % 8 == 0


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
    row_tiles = sum(-(-weight.rows // _ROWS) for weight in weights)
    tokens = _tile_tokens(low.target.sms, row_tiles, rows)
    tiles = row_tiles * -(-rows // tokens)
    grid = min(low.target.sms, tiles)
    groups = -(-cols // 128)  # two panels each
    config = Config(
        "WgmmaConfig",
        (
            ("cols", cols),
            ("tokens", rows),
            ("block_tokens", tokens),
            ("stride", place.stride),
            ("offset", place.column),
            ("accumulate", add is not None),
            ("biased", bias_mask(linears)),
            ("scale", float(add.scale if add else scale)),
            ("cap", cap),
        ),
    )
    return KernelSpec(
        name=name_of_all(linears),
        entry="gemm",
        headers=("stage/gemm_wgmma", *low.headers(*weights)),
        stage=Cpp("GemmWgmma", (config, *map(low.matrix, weights))),
        args={
            "panels": Param("const std::uint8_t*", panel_buffer(low, cols)),
            "factors": Param("const float*", factors(low)),
            "plane": tuple(map(low.plane, weights)),
            "bias": biases(low, linears),
            "y": Param("float*", Binding(place.buffer)),
            "step": low.step(),
        },
        grid=(grid, 1, 1),
        threads=_THREADS,
        shared_bytes=_shared_bytes(tokens),
        ops=tuple(map(label, (*linears, add) if add else linears)),
        outputs=tuple(output for value in outs for output in low.output(value)),
        weight_bytes=low.weight_bytes(*weights),
        other_bytes=rows * (cols * 2 + sum(weight.rows for weight in weights) * 4),
        tiles=Tiles(f"half {tokens}", "f16", 2 * _ROWS * tokens * 128, groups * -(-tiles // grid)),
        flops=2 * rows * sum(weight.rows for weight in weights) * cols,
    )


def _tile_tokens(sms: int, row_tiles: int, rows: int) -> int:
    """Those with which the waves of tiles take the least time; of two that are alike, the wider."""
    return min(_TOKENS, key=lambda tokens: -(-row_tiles * -(-rows // tokens) // sms) * _TOKENS[tokens])


def _shared_bytes(tokens: int) -> int:
    """Panels in flight; barriers that each has landed and that a warp has read it. The emitted source asserts it."""
    stages = min(_MOST_STAGES, _RING // (tokens * _LINE))
    return stages * (tokens * _LINE + 9 * 8)
