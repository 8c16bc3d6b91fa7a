"""Matrix products of several rows: activations are encoded once, then multiplied on the tensor cores."""

from __future__ import annotations

from imp_codegen.graph import Value, Weight, label
from imp_codegen.kernels.kernel_spec import Arguments, Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import activation, norm_fields
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Add, Linear
from imp_runtime.plan import Binding, Tiles

_GEMM_THREADS = 256
_GEMM_ROWS = 64
_LINE = 128  # bytes of one token or weight row that a step of a matrix product takes


def encode(low: Lowering, vector: Vector, weights: tuple[Weight, ...]) -> KernelSpec:
    """The vector of every row as codes and scales, or planes, for products with `weights`."""
    q8, dense = low.wants_q8(*weights), low.wants_dense(*weights)
    rows, value, gated = low.rows, vector.value, vector.gated
    cols = value.width
    width = cols * (2 if gated else len(vector.reads))
    norms = dict(norm_fields(vector))
    config = Config(
        "ActivationsConfig",
        (
            ("cols", cols),
            ("tokens", rows),
            ("norm", norms.pop("norm")),
            ("gated", gated is not None),
            ("q8", q8),
            ("dense", dense),
            *norms.items(),
            ("keep", bool(vector.writes)),
            ("gate_stride", low.places[gated.gate].stride if gated else 0),
            ("up_stride", low.places[gated.up].stride if gated else 0),
        ),
    )
    return KernelSpec(
        name=value.name + ".encode",
        entry="encode",
        headers=("stage/encode_activations",),
        stage=Cpp("EncodeActivations", (config, activation(gated)) if gated else (config,)),
        args={
            **vector.args(low),
            "codes": Param("std::uint8_t*", _codes(low, cols)) if q8 else None,
            "scales": Param("uint2*", _scales(low, cols)) if q8 else None,
            "planes": Param("std::uint16_t*", _planes(low, cols)) if dense else None,
            "step": low.step(),
        },
        grid=(rows, 1, 1),
        threads=256,
        shared_bytes=32 * (bool(vector.norm) + bool(vector.sum)),
        ops=(f"Encode {value.name}",),
        outputs=tuple(output for block in vector.writes for each in block for output in low.output(each)),
        other_bytes=rows * (width * 4 + cols * (1 if q8 else 0) + cols * (4 if dense else 0)),
    )


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
    q8 = low.wants_q8(weight)
    activations: Arguments = (
        {
            "codes": Param("const std::uint8_t*", _codes(low, cols)),
            "scales": Param("const uint2*", _scales(low, cols)),
        }
        if q8
        else {"planes": Param("const std::uint16_t*", _planes(low, cols))}
    )
    return KernelSpec(
        name=op.out.name,
        entry="gemm",
        headers=("stage/gemm_q8" if q8 else "stage/gemm_bf16", *low.headers(weight)),
        stage=Cpp("GemmQ8" if q8 else "GemmBf16", (config, low.matrix(weight))),
        args={
            "weights": low.plane(weight),
            **activations,
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
    """Steps of a CTA: a line of each operand. Floats are products of one to three planes with the two of a vector."""
    fmt = low.placed[weight.name].format
    dense = fmt.activation == "bf16"
    cols = _LINE // 2 if dense else _LINE
    ops = 2 * block_tokens * _GEMM_ROWS * cols * (2 * fmt.prefill_planes if dense else 1)
    return Tiles(fmt.layout, "f16" if dense else "int8", ops, -(-weight.cols // cols))


def _shared_bytes(low: Lowering, weight: Weight, block_tokens: int) -> int:
    """Shared memory of GemmQ8 and GemmBf16: two buffers of one step of both operands. The emitted source asserts it."""
    fmt = low.placed[weight.name].format
    codes = (block_tokens + _GEMM_ROWS) * _LINE
    if fmt.activation == "bf16":
        return 2 * (2 * block_tokens + fmt.prefill_planes * _GEMM_ROWS) * _LINE
    blocks = _LINE // 32
    row_scales = blocks * (_GEMM_ROWS + 8) * 4
    return 2 * (codes + block_tokens * (blocks + 2) * 8 + fmt.prefill_planes * row_scales)


def _codes(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.codes", low.rows * cols)


def _scales(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.scales", low.rows * round_up(cols // 32, 2) * 8)


def _planes(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.planes", 2 * low.rows * cols * 2)
