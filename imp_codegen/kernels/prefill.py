"""The kernels of a chunk of prompt tokens: encode activations, matrix product, rotate and append, attention."""

from __future__ import annotations

import math

from imp_codegen.graph import Add, Attention, HeadNorm, Linear, RmsNorm, Rope, Value, Weight
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, chunk_output, op_names, round_up
from imp_codegen.passes.fuse import Group
from imp_runtime.plan import Binding, Output

_GEMM_THREADS = 256
_GEMM_ROWS = 64
_LINE = 128  # bytes of one token or weight row that a step of a matrix product takes


def encode_chunk(
    low: Lowering, value: Value, source: str, buffer: str, weights: tuple[Weight, ...], norm: RmsNorm | None
) -> Draft:
    """`value` as chunk.codes and chunk.scales, or chunk.planes; `source` is plain, norm or swiglu."""
    q8, dense = low.wants_q8(*weights), low.wants_dense(*weights)
    tokens, cols = low.chunk_tokens, value.width
    width = 2 * cols if source == "swiglu" else cols
    config = Config(
        "ActivationsConfig",
        (
            ("cols", cols),
            ("tokens", tokens),
            ("norm", norm is not None),
            ("swiglu", source == "swiglu"),
            ("q8", q8),
            ("dense", dense),
            ("eps", norm.eps if norm else 0.0),
        ),
    )
    return Draft(
        name=value.name + ".encode",
        entry="encode",
        headers=("stage/encode_activations",),
        stage=Cpp("EncodeActivations", (config,)),
        call=(
            Param("const float*", "x", low.buffer(buffer, tokens * width * 4)),
            low.plane(norm.weight, "norm") if norm else Param("const float*", "norm", None),
            Param("std::uint8_t*", "codes", _codes(low, cols) if q8 else None),
            Param("uint2*", "scales", _scales(low, cols) if q8 else None),
            Param("std::uint16_t*", "planes", _planes(low, cols) if dense else None),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(tokens, 1, 1),
        threads=256,
        shared_bytes=32 if norm else 0,
        ops=(f"Encode {value.name}",),
        other_bytes=tokens * (width * 4 + cols * (1 if q8 else 0) + cols * (4 if dense else 0)),
    )


def gemm_chunk(
    low: Lowering,
    op: Linear,
    cols: int,
    buffer: str,
    *,
    stride: int,
    offset: int = 0,
    add: Add | None = None,
) -> Draft:
    """Columns offset .. offset + rows of `buffer` [tokens, stride] = encoded activations times the matrix.

    With `add` the product is added to what the buffer holds; the buffer then holds that operation's result.
    """
    weight, tokens = op.weight, low.chunk_tokens
    block_tokens = 64 if tokens % 64 == 0 else 32
    config = Config(
        "GemmConfig",
        (
            ("rows", weight.rows),
            ("cols", cols),
            ("tokens", tokens),
            ("stride", stride),
            ("offset", offset),
            ("accumulate", add is not None),
            ("bias", op.bias is not None),
        ),
    )
    q8 = low.wants_q8(weight)
    activations = (
        (Param("const std::uint8_t*", "codes", _codes(low, cols)), Param("const uint2*", "scales", _scales(low, cols)))
        if q8
        else (Param("const std::uint16_t*", "planes", _planes(low, cols)),)
    )
    return Draft(
        name=op.out.name,
        entry="gemm",
        headers=("stage/gemm_q8" if q8 else "stage/gemm_bf16", *low.headers(weight)),
        stage=Cpp("GemmQ8" if q8 else "GemmBf16", (config, low.matrix(weight))),
        call=(
            low.plane(weight, "w"),
            *activations,
            low.plane(op.bias, "bias") if op.bias else Param("const float*", "bias", None),
            Param("float*", "y", low.buffer(buffer, tokens * stride * 4)),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(-(-tokens // block_tokens), -(-weight.rows // _GEMM_ROWS), 1),
        threads=_GEMM_THREADS,
        shared_bytes=_gemm_shared(low, weight, block_tokens),
        ops=op_names((op, add) if add else (op,)),
        outputs=(chunk_output(low, add.out if add else op.out, buffer),) if stride == op.out.width else (),
        weight_bytes=low.weight_bytes(weight),
        other_bytes=tokens * (cols + weight.rows * 4),
        flops=2 * tokens * weight.rows * weight.cols,
    )


def _gemm_shared(low: Lowering, weight: Weight, block_tokens: int) -> int:
    """Shared memory of GemmQ8 and GemmBf16: two buffers of one step of both operands. The emitted source asserts it."""
    fmt = low.placed[weight.name].format
    codes = (block_tokens + _GEMM_ROWS) * _LINE
    if fmt.activation == "bf16":
        return 2 * (2 * block_tokens + fmt.prefill_planes * _GEMM_ROWS) * _LINE
    blocks = _LINE // 32
    row_scales = blocks * (_GEMM_ROWS + 8) * 4
    return 2 * (codes + block_tokens * (blocks + 2) * 8 + fmt.prefill_planes * row_scales)


def attend_chunk(
    low: Lowering, group: Group, op: Attention, rope: Rope, norms: tuple[HeadNorm, ...]
) -> tuple[Draft, ...]:
    """Rotate the chunk's q in place, append its k and v to the cache, and attend causally over the cache."""
    return (_append(low, group, op, rope, norms), _attend(low, group, op))


def _append(low: Lowering, group: Group, op: Attention, rope: Rope, norms: tuple[HeadNorm, ...]) -> Draft:
    null = Param("const float*", "no_norm", None)
    config = Config(
        "RopeAppendConfig",
        (
            *_heads(low, op),
            *_paging(low),
            ("interleaved", rope.rope.interleaved),
            ("norm", bool(norms)),
            ("eps", norms[0].eps if norms else 0.0),
            ("scale", op.scale * math.log2(math.e)),
        ),
    )
    return Draft(
        name=group.name + ".append",
        entry="append",
        headers=("stage/rope_append",),
        stage=Cpp("RopeAppend", (config,)),
        call=(
            Param("float*", "qkv", _qkv(low, op)),
            low.plane(norms[0].weight, "q_norm") if norms else null,
            low.plane(norms[1].weight, "k_norm") if norms else null,
            low.turns(rope.rope),
            low.layer_cache(op.layer),
            low.state("const std::int32_t*", "seq.table"),
            low.state("const std::int32_t*", "seq.position"),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(low.chunk_tokens, 1, 1),
        threads=256,
        shared_bytes=op.head_dim // 2 * 8,
        ops=op_names(group.ops[:-1]),
        other_bytes=2 * low.chunk_tokens * _stride(op) * 4,
    )


def _attend(low: Lowering, group: Group, op: Attention) -> Draft:
    tokens = low.chunk_tokens
    config = Config("AttentionPrefillConfig", (*_heads(low, op), ("stride", _stride(op)), *_paging(low)))
    warps = 4 if tokens % 64 == 0 else 2
    cache = low.layer_cache(op.layer)
    assert cache.binding is not None
    return Draft(
        name=group.name,
        entry="attend",
        headers=("stage/attention_prefill",),
        stage=Cpp("AttentionPrefill", (config,)),
        call=(
            Param("const float*", "q", _qkv(low, op)),
            Param("const std::uint8_t*", "cache", cache.binding),
            low.state("const std::int32_t*", "seq.table"),
            low.state("const std::int32_t*", "seq.position"),
            Param("float*", "out", low.buffer("chunk.attn", tokens * op.out.width * 4)),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(-(-tokens // (warps * 16)), op.heads, 1),
        threads=warps * 32,
        shared_bytes=4 * 64 * (op.head_dim * 2 + 16),
        ops=op_names((op,)),
        outputs=(
            chunk_output(low, op.out, "chunk.attn"),
            Output(op.k.name, "kv", cache.binding.offset, "f16", (op.kv_heads, op.head_dim)),
        ),
        other_bytes=2 * tokens * op.out.width * 4,
    )


def _heads(low: Lowering, op: Attention) -> tuple[tuple[str, int], ...]:
    return (("heads", op.heads), ("kv_heads", op.kv_heads), ("head_dim", op.head_dim), ("tokens", low.chunk_tokens))


def _paging(low: Lowering) -> tuple[tuple[str, int], ...]:
    return (("table_blocks", low.table_blocks), ("block_bytes", low.kv.block_bytes))


def _stride(op: Attention) -> int:
    """Floats of a token's q, k and v."""
    return (op.heads + 2 * op.kv_heads) * op.head_dim


def _qkv(low: Lowering, op: Attention) -> Binding:
    return low.buffer("chunk.qkv", low.chunk_tokens * _stride(op) * 4)


def finish_chunk(low: Lowering) -> Draft:
    """The position moves on, and the prompt's tokens are marked as seen."""
    return Draft(
        name="finish",
        entry="finish",
        headers=("stage/finish_prefill",),
        stage=Cpp("FinishPrefill", (Config("FinishConfig", (("vocab", low.spec.vocab),)),)),
        call=(
            low.state("const std::int32_t*", "step.tokens"),
            low.state("std::uint32_t*", "seq.seen"),
            low.state("std::int32_t*", "seq.position"),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(1, 1, 1),
        threads=256,
        shared_bytes=0,
        ops=(),
        other_bytes=low.chunk_tokens * 8,
    )


def _codes(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.codes", low.chunk_tokens * cols)


def _scales(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.scales", low.chunk_tokens * round_up(cols // 32, 2) * 8)


def _planes(low: Lowering, cols: int) -> Binding:
    return low.buffer("chunk.planes", 2 * low.chunk_tokens * cols * 2)
