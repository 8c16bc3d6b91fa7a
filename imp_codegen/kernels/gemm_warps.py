"""Matrix products of several rows by warps (stage/gemm_warps.h): how they share a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imp_codegen.graph import Value
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import PanelTile, Products, panel_gemm, ring_bytes, row_tiles
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation
from imp_codegen.ops import Add, Gated

_RING = 96 << 10  # bytes of panels in flight at most
_MOST_STAGES = 6


@dataclass(frozen=True, slots=True)
class Shape:
    """A tile: warps, those of them that share its rows, and times 16 rows of a warp. `time`: of the first shape's."""

    tokens: int
    warps: int
    token_warps: int
    row_tiles: int
    time: float

    @property
    def rows(self) -> int:
        """Of weights."""
        return self.warps // self.token_warps * self.row_tiles * 16


@dataclass(frozen=True, slots=True)
class ByWarps:
    """What warps multiply, and the tiles that they may have.

    `stage`: the C++ template, in `header`. `kind`: what the cost model calls the tiles, with {} for rows x tokens;
    `mma` likewise. `line`: bytes of a token in a panel. `group_bytes`: of a token's 128 columns.
    """

    stage: str
    header: str
    shapes: tuple[Shape, ...]
    kind: str
    mma: Literal["f16", "half", "nvfp4"]
    line: int
    group_bytes: int


def warp_gemm(
    low: Lowering,
    by: ByWarps,
    linears: Products,
    add: Add | None,
    *,
    gated: Gated | None,
    places: Places | None,
    out: Value | None,
    scale: float,
    cap: float,
) -> KernelSpec:
    """One launch, as panel_gemm says it; `gated` and `places` as PanelTile does."""
    shape = _shape_of_pairs(by.shapes, linears, places) if places else _shape(by.shapes, low, linears)
    stages = min(_MOST_STAGES, _RING // (shape.tokens * by.line))
    tile = PanelTile(
        stage=by.stage,
        header=by.header,
        config="MmaConfig",
        fields=(
            ("warps", shape.warps),
            ("token_warps", shape.token_warps),
            ("row_tiles", shape.row_tiles),
            ("stages", stages),
            ("half_sums", by.mma == "half"),
        ),
        kind=by.kind.format(f"{shape.rows}x{shape.tokens}"),
        mma=by.mma,
        rows=shape.rows,
        tokens=shape.tokens,
        threads=(shape.warps + 4) * 32,
        shared_bytes=ring_bytes(shape.tokens, stages, shape.warps, by.line),
        types=(activation(gated) if gated else Cpp("NoGate"),),
        gated=gated,
        places=places,
        group_bytes=by.group_bytes,
    )
    return panel_gemm(low, tile, linears, add, out=out, scale=scale, cap=cap)


def _shape_of_pairs(shapes: Sequence[Shape], linears: Products, places: Places) -> Shape:
    """That which takes the least time among those with the places' tiles."""
    fitting = [shape for shape in shapes if shape.tokens == places.tile]
    return min(fitting, key=lambda shape: row_tiles(shape.rows, linears) * shape.time)


def _shape(shapes: Sequence[Shape], low: Lowering, linears: Products) -> Shape:
    """That with which the waves of tiles take the least time; of two that are alike, the larger."""

    def time(shape: Shape) -> float:
        tiles = row_tiles(shape.rows, linears) * -(-low.rows // shape.tokens)
        return -(-tiles // low.target.sms) * shape.time

    return min(shapes, key=time)
