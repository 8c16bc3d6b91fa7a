"""QK-norm, RoPE, KV append and attention."""

from __future__ import annotations

import math

from imp_codegen.graph import Attention, HeadNorm, Rope
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import Lowering, op_names, output, round_up
from imp_codegen.kernels.prefill import attend_chunk
from imp_codegen.passes.fuse import Group
from imp_runtime.plan import BLOCK_TOKENS, Output

_MOST_SLOTS = 8  # tiles in flight, a warp: keys and values of four blocks


def core_config(low: Lowering, group: Group, splits: int) -> tuple[Config, int]:
    """The config of both forms of decode attention, and the shared memory of what they share."""
    op, rope, norms = parts(group)
    warps = low.step_warps
    config = Config(
        "AttentionConfig",
        (
            ("heads", op.heads),
            ("kv_heads", op.kv_heads),
            ("head_dim", op.head_dim),
            ("block_tokens", BLOCK_TOKENS),
            ("block_bytes", low.kv.block_bytes),
            ("table_blocks", low.table_blocks),
            ("splits", splits),
            ("warps", warps),
            ("interleaved", rope.rope.interleaved),
            ("qk_norm", bool(norms)),
            ("eps", norms[0].eps if norms else 0.0),
            ("scale", op.scale * math.log2(math.e)),
        ),
    )
    queries = queries_of_cta(op)
    parts_bytes = warps * queries * (op.head_dim + 2) * 4
    return config, round_up(queries * op.head_dim * 4 + 2 * op.head_dim * 2 + parts_bytes, 16)


def queries_of_cta(op: Attention) -> int:
    """Query heads of one kv head that one CTA takes: a share of them, eight at most."""
    group = op.heads // op.kv_heads
    return next(group // n for n in range(1, group + 1) if group % n == 0 and group // n <= 8)


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Split over the keys: `attention_ctas` CTAs of the target, the last of each kv head merges."""
    op, rope, norms = parts(group)
    queries = queries_of_cta(op)
    items = op.heads // queries
    splits = max(low.target.attention_ctas // items, 1)
    config, core = core_config(low, group, splits)
    warps = low.step_warps
    tile = BLOCK_TOKENS * op.head_dim * 2
    slots = min(max((low.target.gemv_shared - core) // (warps * (tile + 8)), 2), _MOST_SLOTS)
    shared = warps * slots * tile + round_up(warps * slots * 8, 16) + core + 16
    width = (op.heads + 2 * op.kv_heads) * op.head_dim
    partial = low.buffer("attn.partial", items * splits * queries * (op.head_dim + 2) * 4)
    cache = low.layer_cache(op.layer)
    assert cache.binding is not None
    draft = Draft(
        name=group.name,
        entry="attention",
        headers=("stage/attention_decode",),
        stage=Cpp("AttentionDecode", (config, slots)),
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
        shared_bytes=shared,
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
