"""A matrix product of several rows whose float weights are sums of bfloat16 terms (stage/gemm_bf16.h)."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.encode import planes
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

_GEMM_THREADS = 256
_GEMM_ROWS = 64
_LINE = 128  # bytes of one token or weight row that a step of a matrix product takes


def gemm(
    low: Lowering,
    op: Linear,
    add: Add | None = None,
    *,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> KernelSpec:
    """The encoded activations times the matrix; with `add` added to what lies where its result goes.

    `out`: the result of what `scale` and a soft `cap` (0: none) stand for.
    """
    out = add.out if add else out or op.out
    weight, rows, cols = op.weight, low.rows, op.x.width
    block_tokens = 64 if rows % 64 == 0 else 32
    place = low.places[out]
    config = Config(
        "GemmConfig",
        (
            ("rows", weight.rows),
            ("cols", cols),
            ("tokens", rows),
            ("stride", place.stride),
            ("offset", place.column),
            ("accumulate", add is not None),
            ("bias", op.bias is not None),
            ("scale", float(add.scale if add else scale)),
            ("cap", cap),
        ),
    )
    return KernelSpec(
        name=op.out.name,
        entry="gemm",
        headers=("stage/gemm_bf16", *low.headers(weight)),
        stage=Cpp("GemmBf16", (config, low.matrix(weight))),
        args={
            "weights": low.plane(weight),
            "planes": Param("const std::uint16_t*", planes(low, cols)),
            "bias": low.plane(op.bias) if op.bias else None,
            "y": Param("float*", Binding(place.buffer)),
            "step": low.step(),
        },
        grid=(-(-rows // block_tokens), -(-weight.rows // _GEMM_ROWS), 1),
        threads=_GEMM_THREADS,
        shared_bytes=_shared_bytes(low, weight, block_tokens),
        ops=tuple(map(label, (op, add) if add else (op,))),
        outputs=low.output(out),
        weight_bytes=low.weight_bytes(weight),
        other_bytes=rows * (cols + weight.rows * 4),
        tiles=_tiles(low, weight, block_tokens),
        flops=2 * rows * weight.rows * weight.cols,
    )


def _tiles(low: Lowering, weight: Weight, block_tokens: int) -> Tiles:
    """Steps of a CTA: a line of each operand, products of a weight's terms with the two of a vector."""
    layout, cols = low.layout(weight), _LINE // 2
    ops = 2 * block_tokens * _GEMM_ROWS * cols * 2 * layout.planes
    return Tiles(layout.name, "f16", ops, -(-weight.cols // cols))


def _shared_bytes(low: Lowering, weight: Weight, block_tokens: int) -> int:
    """Two buffers of one step of both operands. The emitted source asserts it."""
    return 2 * (2 * block_tokens + low.layout(weight).planes * _GEMM_ROWS) * _LINE
