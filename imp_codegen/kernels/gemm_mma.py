"""Matrix products of several rows by warps (stage/gemm_mma.h): weights become halfs in registers."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import PEAK
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import LINE, PanelTile, Products, panel_gemm, ring_bytes, row_tiles
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation
from imp_codegen.ops import Add, Gated, Route

_RING = 96 << 10  # bytes of panels in flight at most
_MOST_STAGES = 6


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tile: warps, those of them that share its rows, and times 16 rows of a warp. `time`: of the first shape's."""

    tokens: int
    warps: int
    token_warps: int
    row_tiles: int
    time: float

    @property
    def rows(self) -> int:
        return self.warps // self.token_warps * self.row_tiles * 16


_SHAPES = (_Shape(128, 8, 2, 2, 1.0), _Shape(64, 8, 1, 2, 1.0), _Shape(64, 8, 1, 1, 0.58))


def _half_sums(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether the weights have so few bits that sums of halfs, which are twice as fast, lose nothing beside them."""
    return not low.wants_dense(*weights)


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
    shape = _shape_of_pairs(linears, places) if places else _shape(low, linears)
    halfs = _half_sums(low, tuple(op.weight for op in linears))
    stages = min(_MOST_STAGES, _RING // (shape.tokens * LINE))
    tile = PanelTile(
        stage="GemmMma",
        header="stage/gemm_mma",
        config="MmaConfig",
        fields=(
            ("warps", shape.warps),
            ("token_warps", shape.token_warps),
            ("row_tiles", shape.row_tiles),
            ("stages", stages),
            ("half_sums", halfs),
        ),
        kind=f"half {shape.rows}x{shape.tokens}{'' if halfs else ' float'}",
        mma="half" if halfs else "f16",
        rows=shape.rows,
        tokens=shape.tokens,
        threads=(shape.warps + 4) * 32,
        shared_bytes=ring_bytes(shape.tokens, stages, shape.warps),
        types=(activation(gated) if gated else Cpp("NoGate"),),
        gated=gated,
        places=places,
    )
    return panel_gemm(low, tile, linears, add, out=out, scale=scale, cap=cap)


def tile_pairs(low: Lowering, route: Route) -> int:
    """Pairs of a tile with which the products of a mixture should take the least time."""

    def time(shape: _Shape) -> float:
        return Places(route, low.rows, shape.tokens).likely_tiles * shape.time / shape.rows

    return min(_SHAPES, key=time).tokens


def _shape_of_pairs(linears: Products, places: Places) -> _Shape:
    """That which takes the least time among those with the places' tiles."""
    fitting = [shape for shape in _SHAPES if shape.tokens == places.tile]
    return min(fitting, key=lambda shape: row_tiles(shape.rows, linears) * shape.time)


def _shape(low: Lowering, linears: Products) -> _Shape:
    """That with which the waves of tiles take the least time; of two that are alike, the larger."""

    def time(shape: _Shape) -> float:
        tiles = row_tiles(shape.rows, linears) * -(-low.rows // shape.tokens)
        return -(-tiles // low.target.sms) * shape.time

    return min(_SHAPES, key=time)
