"""Attention of one row: split over the keys, the last CTA of each kv head merges."""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.attention.parts import Parts, appended, core_config, norm_weights, turns
from imp_codegen.kernels.attention.sizes import (
    LEAST_SLOTS,
    attention_bytes,
    attention_warps,
    core_bytes,
    queries_of_cta,
)
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.plan import BLOCK_TOKENS, CacheRead

_MOST_SLOTS = 8  # tiles in flight, a warp: keys and values of four blocks


def lower(low: Lowering, parts: Parts) -> tuple[KernelSpec, ...]:
    """`attention_ctas` CTAs of the target."""
    op = parts.op
    queries = queries_of_cta(op)
    items = op.heads // queries
    splits = max(low.target.attention_ctas // items, 1)
    warps = attention_warps(low, op)
    cache, part = low.layer_cache(op.layer), low.cache.layers[op.layer]
    tile = BLOCK_TOKENS * part.row_bytes
    fit = (low.target.gemv_shared - core_bytes(op, part.row_bytes, warps)) // (warps * (tile + 8))
    slots = min(max(fit, LEAST_SLOTS), _MOST_SLOTS)
    partial = low.buffer("attn.partial", items * splits * queries * (op.head_dim + 2) * 4)
    kernel = KernelSpec(
        name=op.out.name,
        entry="attention",
        headers=("stage/attention_decode", low.cache_header(op.layer)),
        stage=Cpp("AttentionDecode", (core_config(low, parts, splits, op.window), low.cache_row(op.layer), slots)),
        args={
            "qkv": low.value("const float*", parts.inputs[0]),
            **norm_weights(low, parts),
            "turns": turns(low, parts),
            "cache": cache,
            "rows": low.step_rows(),
            "positions": low.state("const std::int32_t*", "seq.position"),
            "table": low.layer_table(op.layer),
            "partial": Param("float*", partial),
            "arrived": Param("std::uint32_t*", low.buffer("attn.arrived", items * 4)),
            "out": low.value("float*", op.out),
        },
        grid=(splits, items, 1),
        threads=warps * 32,
        shared_bytes=attention_bytes(op, part.row_bytes, warps, slots),
        overlap=True,
        ops=tuple(map(label, parts.ops)),
        outputs=(*low.output(op.out), *appended(low, op)),
        other_bytes=parts.width * 4 + op.out.width * 4,
        cache_reads=(CacheRead(op.window, part.position_bytes),),
    )
    return (kernel,)
