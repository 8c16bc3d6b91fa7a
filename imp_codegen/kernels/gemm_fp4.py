"""Matrix products of several rows on FP4 tensor cores (stage/gemm_fp4.h): weights as they are, activations rounded.

Blocks of 16 columns have a scale: x = code * scale * (row's largest / 2688), the scale e4m3(448 * block's largest /
row's largest), the code e2m1 of what is left, both rounded to nearest. 2688 is 6 * 448. That is another precision than
all other products have, so only `--prefill w4a4` takes it, and only for prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels.encode import FP4_LINE
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.gemm_panels import Products
from imp_codegen.kernels.gemm_warps import ByWarps, Shape, warp_gemm
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Gated

# Times by what the tensor cores do, of the last by what an RTX 5090's L2 gives a multiprocessor (7.1 TB/s, as others
# say); nobody has measured them. Tiles have as many pairs of experts as those of halfs.
_SHAPES = (Shape(128, 8, 1, 2, 1.0), Shape(128, 8, 1, 1, 0.5), Shape(64, 8, 1, 2, 0.5), Shape(64, 8, 1, 1, 0.29))
_BY = ByWarps("GemmFp4", "stage/gemm_fp4", _SHAPES, "fp4 {}", "nvfp4", FP4_LINE, FP4_LINE)
_SCALED = 64  # weights whose scales a lane reads at once


def takes(low: Lowering, weights: Sequence[Weight]) -> bool:
    """Whether the products of all of the weights with one vector are these."""
    wanted = low.prefill == "w4a4" and not low.batch
    return wanted and all(low.layout(w).fp4 and low.tile(w).cols % _SCALED == 0 for w in weights)


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
    return warp_gemm(low, _BY, linears, add, gated=gated, places=places, out=out, scale=scale, cap=cap)
