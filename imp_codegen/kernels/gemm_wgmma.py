"""Matrix products of several rows by warpgroups (stage/gemm_wgmma.h): weights become halfs in registers."""

from __future__ import annotations

from collections.abc import Callable

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import PEAK
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import LINE, PanelTile, Products, panel_gemm, ring_bytes, row_tiles, takes
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation
from imp_codegen.ops import Add, Gated, Route

_ROWS = 128  # of a tile, usually: two warpgroups, 64 each
# Rows and tokens of a tile, and the time that it takes (H100): the narrower, the less is hidden. With few tokens a
# warpgroup waits for itself, so that one alone takes two thirds of the time of two, and three little more (H200).
_TILES = {
    (128, 256): 1.0,
    (128, 128): 0.65,
    (128, 64): 0.55,
    (192, 64): 0.66,
    (64, 64): 0.36,
}
_PAIRS = {
    256: 1.0,
    128: 0.65,
    64: 0.35,
    32: 0.28,
}  # likewise of experts, where two CTAs with 64 or fewer share a multiprocessor
_RING = 192 << 10  # bytes of panels in flight at most
_MOST_STAGES = 8
_ENDS = 3  # groups of 128 columns that take as long as a tile's beginning and end
_HALF_GROUPS = 32  # of a half, at least: to put halves together takes as long as several of them


def peak(_low: Lowering, _weights: tuple[Weight, ...]) -> int:
    """As encode takes it."""
    return PEAK


def pairs(low: Lowering, gate: Weight, up: Weight) -> bool:
    """Whether one launch multiplies both and leaves activation(gate) * up: they are alike but for their numbers."""
    alike = (gate.rows, low.layout(gate), low.tile(gate)) == (up.rows, low.layout(up), low.tile(up))
    return low.target.wgmma and not low.batch and takes(low, gate) and alike


def gemm(
    low: Lowering,
    linears: Products,
    add: Add | None = None,
    *,
    gated: Gated | None = None,
    places: Places | None = None,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> KernelSpec:
    """One launch, as panel_gemm says it; `gated` and `places` as PanelTile does."""

    def tiles(rows: int) -> int:
        return row_tiles(rows // 2, linears[:1]) if gated else row_tiles(rows, linears)

    halves = not places and _halves(low.target.sms, tiles(_ROWS), -(-linears[0].weight.cols // 128))
    rows, tokens = (_ROWS, places.tile) if places else _tile(low.target.sms, tiles, low.rows, halves)
    per_sm = 2 if places and tokens <= 64 else 1
    stages = min(_MOST_STAGES, _RING // per_sm // (tokens * LINE))
    warps = rows // 16
    kind = f"half {'pairs ' if per_sm > 1 else ''}{tokens}"
    tile = PanelTile(
        stage="GemmWgmma",
        header="stage/gemm_wgmma",
        config="WgmmaConfig",
        fields=(("halves", halves), *((("rows", rows),) if rows != _ROWS else ())),
        kind=kind if rows == _ROWS else f"{kind} of {rows}",
        mma="f16",
        rows=rows,
        tokens=tokens,
        threads=(warps + 4) * 32,
        shared_bytes=ring_bytes(tokens, stages, warps),
        types=(activation(gated) if gated else Cpp("NoGate"),),
        ends=_ENDS,
        halves=halves,
        gated=gated,
        places=places,
        per_sm=per_sm,
    )
    return panel_gemm(low, tile, linears, add, out=out, scale=scale, cap=cap)


def tile_pairs(low: Lowering, route: Route) -> int:
    """Pairs of a tile with which the products of a mixture should take the least time."""
    return min(_PAIRS, key=lambda pairs: Places(route, low.rows, pairs).likely_tiles * _PAIRS[pairs])


def _halves(sms: int, row_tiles: int, groups: int) -> bool:
    """Whether sums are made in two halves, whatever the rows: where 512 tokens fill no more than half of the card."""
    return 4 * row_tiles <= sms and groups >= 2 * _HALF_GROUPS


def _tile(sms: int, row_tiles: Callable[[int], int], rows: int, halves: bool) -> tuple[int, int]:
    """Rows and tokens with which the waves of tiles take the least time; of two that are alike, the first.

    Halves of sums are made side by side where all fit in a wave.
    """

    def time(tile: tuple[int, int]) -> float:
        tiles = row_tiles(tile[0]) * -(-rows // tile[1])
        return (0.5 if halves and 2 * tiles <= sms else -(-tiles // sms)) * _TILES[tile]

    return min(_TILES, key=time)
