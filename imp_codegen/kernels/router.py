"""A router's logits for several rows (stage/router_rows.h)."""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Linear

_WARPS = 8
_MOST_BYTES = 96 << 10  # of a CTA's rows


def takes(low: Lowering, vector: Vector, router: Linear) -> bool:
    """Whether its weights are floats, of a vector that is normed or lies in memory."""
    return vector.plain and low.wants_dense(router.weight) and _block_rows(router.weight.cols) > 0


def router_rows(low: Lowering, vector: Vector, router: Linear) -> KernelSpec:
    """The logits of every row in one launch."""
    weight, norm = router.weight, vector.norm
    rows, each = _block_rows(weight.cols), 1 if low.batch else 4
    config = Config(
        "RouterConfig",
        (
            ("cols", weight.cols),
            ("block_rows", rows),
            ("warp_experts", each),
            ("norm", norm is not None),
            ("eps", norm.eps if norm else 0.0),
            ("weighted", norm is not None and norm.weight is not None),
            ("biased", router.bias is not None),
        ),
    )
    grid = (-(-low.rows // rows), -(-weight.rows // (_WARPS * each)), 1)
    return KernelSpec(
        name=router.out.name,
        entry="router_rows",
        headers=("stage/router_rows", *low.headers(weight)),
        stage=Cpp("RouterRows", (config, low.matrix(weight))),
        args={
            **vector.args(low),
            "plane": low.plane(weight),
            "bias": low.plane(router.bias) if router.bias else None,
            "logits": low.value("float*", router.out),
            "step": low.step(),
        },
        grid=grid,
        threads=_WARPS * 32,
        shared_bytes=rows * weight.cols * 4,
        overlap=True,
        ops=(*map(label, vector.ops), label(router)),
        outputs=low.output(router.out),
        weight_bytes=low.weight_bytes(weight),
        other_bytes=low.rows * (weight.cols * grid[1] + weight.rows) * 4,
        flops=2 * low.rows * weight.rows * weight.cols,
    )


def _block_rows(cols: int) -> int:
    """Rows of a CTA."""
    return next((rows for rows in (8, 4, 2, 1) if rows * cols * 4 <= _MOST_BYTES), 0)
