"""QK-norm, RoPE, KV append and attention."""

from __future__ import annotations

import math

from imp_codegen.graph import Attention, HeadNorm, Rope
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import (
    LEAST_SLOTS,
    Lowering,
    attention_bytes,
    core_bytes,
    op_names,
    output,
    queries_of_cta,
)
from imp_codegen.kernels.prefill import attend_chunk
from imp_codegen.passes.fuse import Group
from imp_runtime.plan import BLOCK_TOKENS, Output

_MOST_SLOTS = 8  # tiles in flight, a warp: keys and values of four blocks


def core_config(low: Lowering, group: Group, splits: int) -> Config:
    """The config of both forms of decode attention."""
    op, rope, norms = parts(group)
    return Config(
        "AttentionConfig",
        (
            ("heads", op.heads),
            ("kv_heads", op.kv_heads),
            ("head_dim", op.head_dim),
            ("block_tokens", BLOCK_TOKENS),
            ("block_bytes", low.kv.block_bytes),
            ("table_blocks", low.table_blocks),
            ("splits", splits),
            ("warps", low.step_warps),
            ("interleaved", rope.rope.interleaved),
            ("qk_norm", bool(norms)),
            ("eps", norms[0].eps if norms else 0.0),
            ("scale", op.scale * math.log2(math.e)),
        ),
    )


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Split over the keys: `attention_ctas` CTAs of the target, the last of each kv head merges."""
    op, rope, norms = parts(group)
    queries = queries_of_cta(op)
    items = op.heads // queries
    splits = max(low.target.attention_ctas // items, 1)
    warps = low.step_warps
    tile = BLOCK_TOKENS * op.head_dim * 2
    fit = (low.target.gemv_shared - core_bytes(op, warps)) // (warps * (tile + 8))
    slots = min(max(fit, LEAST_SLOTS), _MOST_SLOTS)
    width = (op.heads + 2 * op.kv_heads) * op.head_dim
    partial = low.buffer("attn.partial", items * splits * queries * (op.head_dim + 2) * 4)
    cache = low.layer_cache(op.layer)
    assert cache.binding is not None
    draft = Draft(
        name=group.name,
        entry="attention",
        headers=("stage/attention_decode",),
        stage=Cpp("AttentionDecode", (core_config(low, group, splits), slots)),
        call=(
            (
                Param("const float*", "qkv", low.buffer("qkv", width * 4)),
                *norm_params(low, norms),
                low.turns(rope.rope),
                cache,
                low.state("const std::int32_t*", "step.input"),
                low.state("const std::int32_t*", "seq.position"),
                low.state("const std::int32_t*", "seq.table"),
                Param("float*", "partial", partial),
                Param("std::uint32_t*", "arrived", low.buffer("attn.arrived", items * 4)),
                Param("float*", "out", low.buffer("attn", op.out.width * 4)),
            ),
        ),
        grid=(splits, items, 1),
        threads=warps * 32,
        shared_bytes=attention_bytes(op, warps, slots),
        overlap=True,
        ops=op_names(group.ops),
        outputs=(
            output(op.out, "attn"),
            Output(op.k.name, "kv", cache.binding.offset, "f16", (op.kv_heads, op.head_dim)),
        ),
        other_bytes=width * 4 + op.out.width * 4,
        flops=0,
    )
    return (draft,)


def prefill(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Rotate and append the whole chunk, then causal attention over the cache."""
    op, rope, norms = parts(group)
    return attend_chunk(low, group, op, rope, norms)


def parts(group: Group) -> tuple[Attention, Rope, tuple[HeadNorm, ...]]:
    """The attention, one of its two equal rotary embeddings, and the norms of q and k if there are any."""
    attention = group.ops[-1]
    ropes = [op for op in group.ops if isinstance(op, Rope)]
    norms = tuple(op for op in group.ops if isinstance(op, HeadNorm))
    assert isinstance(attention, Attention)
    return attention, ropes[0], norms


def norm_params(low: Lowering, norms: tuple[HeadNorm, ...]) -> tuple[Param, Param]:
    """The QK-norm weights, or null pointers."""
    if not norms:
        return Param("const float*", "q_norm", None), Param("const float*", "k_norm", None)
    return low.plane(norms[0].weight, "q_norm"), low.plane(norms[1].weight, "k_norm")
