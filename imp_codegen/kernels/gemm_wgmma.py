"""Matrix products of several rows by warpgroups (stage/gemm_wgmma.h): weights become halfs in registers."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import PEAK
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import LINE, PanelTile, Products, panel_gemm, ring_bytes, row_tiles, takes
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation
from imp_codegen.ops import Add, Gated, Route

_ROWS = 128  # of a tile: two warpgroups, 64 each
_WARPS = 8
_TOKENS = {
    256: 1.0,
    128: 0.65,
    64: 0.55,
}  # of a tile, and the time that it takes (H100): the narrower, the less is hidden
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
    tiles = row_tiles(_ROWS // 2, linears[:1]) if gated else row_tiles(_ROWS, linears)
    halves = not places and _halves(low.target.sms, tiles, -(-linears[0].weight.cols // 128))
    tokens = places.tile if places else _tile_tokens(low.target.sms, tiles, low.rows, halves)
    per_sm = 2 if places and tokens <= 64 else 1
    stages = min(_MOST_STAGES, _RING // per_sm // (tokens * LINE))
    tile = PanelTile(
        stage="GemmWgmma",
        header="stage/gemm_wgmma",
        config="WgmmaConfig",
        fields=(("halves", halves),),
        kind=f"half pairs {tokens}" if per_sm > 1 else f"half {tokens}",
        mma="f16",
        rows=_ROWS,
        tokens=tokens,
        threads=(_WARPS + 4) * 32,
        shared_bytes=ring_bytes(tokens, stages, _WARPS),
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


def _tile_tokens(sms: int, row_tiles: int, rows: int, halves: bool) -> int:
    """Those with which the waves of tiles take the least time; of two that are alike, the wider.

    Halves of sums are made side by side where all fit in a wave.
    """

    def time(tokens: int) -> float:
        tiles = row_tiles * -(-rows // tokens)
        return (0.5 if halves and 2 * tiles <= sms else -(-tiles // sms)) * _TOKENS[tokens]

    return min(_TOKENS, key=time)
