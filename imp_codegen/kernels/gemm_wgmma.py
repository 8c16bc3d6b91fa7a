"""Matrix products of several rows by warpgroups (stage/gemm_wgmma.h): weights become halfs in registers."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import PEAK
from imp_codegen.kernels.gemm_panels import LINE, PanelTile, panel_gemm, ring_bytes, row_tiles
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Linear

_ROWS = 128  # of a tile: two warpgroups, 64 each
_WARPS = 8
_TOKENS = {
    256: 1.0,
    128: 0.65,
    64: 0.55,
}  # of a tile, and the time that it takes (H100): the narrower, the less is hidden
_RING = 192 << 10  # bytes of panels in flight at most
_MOST_STAGES = 8


def peak(_low: Lowering, _weights: tuple[Weight, ...]) -> int:
    """As encode takes it."""
    return PEAK


def gemm(
    low: Lowering,
    linears: tuple[Linear, ...],
    add: Add | None = None,
    *,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> KernelSpec:
    """One launch, as panel_gemm says it."""
    tokens = _tile_tokens(low.target.sms, row_tiles(_ROWS, linears), low.rows)
    stages = min(_MOST_STAGES, _RING // (tokens * LINE))
    tile = PanelTile(
        stage="GemmWgmma",
        header="stage/gemm_wgmma",
        config="WgmmaConfig",
        fields=(),
        kind=f"half {tokens}",
        mma="f16",
        rows=_ROWS,
        tokens=tokens,
        threads=(_WARPS + 4) * 32,
        shared_bytes=ring_bytes(tokens, stages, _WARPS),
    )
    return panel_gemm(low, tile, linears, add, out=out, scale=scale, cap=cap)


def _tile_tokens(sms: int, row_tiles: int, rows: int) -> int:
    """Those with which the waves of tiles take the least time; of two that are alike, the wider."""
    return min(_TOKENS, key=lambda tokens: -(-row_tiles * -(-rows // tokens) // sms) * _TOKENS[tokens])
