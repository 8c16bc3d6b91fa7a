"""Matrix products of several rows by warps (stage/gemm_mma.h): weights become halfs in registers."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import PEAK
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import GROUP_BYTES, LINE, Products
from imp_codegen.kernels.gemm_warps import ByWarps, Shape, warp_gemm
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Gated, Route

_SMALL = (Shape(64, 8, 1, 2, 1.0), Shape(64, 8, 1, 1, 0.58))
_FLOAT = (Shape(128, 8, 2, 2, 1.0), *_SMALL)
# Where tensor cores take half the time, no two warps unpack the same rows: 512 tokens of an 8B's layers take 2 to 11 %
# less on an H200, and weights that tables give their meaning fit the registers.
_HALF = (Shape(128, 8, 1, 1, 1.0), *_SMALL)


def _half_sums(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether the weights have so few bits that sums of halfs, which are twice as fast, lose nothing beside them."""
    return not low.wants_dense(*weights) and not low.wants_halfs(*weights)


def peak(low: Lowering, weights: tuple[Weight, ...]) -> int:
    """As encode takes it: 64 products of values below 2^5 and weights up to 32 add up to what a half holds."""
    return 4 if _half_sums(low, weights) else PEAK


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
    halfs = _half_sums(low, tuple(op.weight for op in linears))
    kind = "half {}" if halfs else "half {} float"
    by = ByWarps(
        "GemmMma", "stage/gemm_mma", _HALF if halfs else _FLOAT, kind, "half" if halfs else "f16", LINE, GROUP_BYTES
    )
    return warp_gemm(low, by, linears, add, gated=gated, places=places, out=out, scale=scale, cap=cap)


def tile_pairs(low: Lowering, route: Route) -> int:
    """Pairs of a tile with which the products of a mixture should take the least time."""

    def time(shape: Shape) -> float:
        return Places(route, low.rows, shape.tokens).likely_tiles * shape.time / shape.rows

    return min(_HALF, key=time).tokens
