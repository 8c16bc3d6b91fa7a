"""QK-norm, RoPE, KV append and attention."""

from __future__ import annotations

import math

from imp_codegen.graph import Attention, HeadNorm, Rope, Weight
from imp_codegen.kernels.draft import Config, Cpp, Draft, Param
from imp_codegen.kernels.lowering import ROPE_TURNS, Lowering, op_names, output, round_up
from imp_codegen.kernels.prefill import attend_chunk
from imp_codegen.passes.fuse import Group
from imp_runtime.plan import BLOCK_TOKENS, Binding, Output

_THREADS = 256
_TILE = 64  # positions at a time; the least that is worth a CTA


def decode(low: Lowering, group: Group) -> tuple[Draft, ...]:
    """Split over the keys: `attention_ctas` CTAs of the target, the last of each kv head merges."""
    op, rope, norms = parts(group)
    splits = -(-low.target.attention_ctas // op.kv_heads)
    queries = op.heads // op.kv_heads
    width = (op.heads + 2 * op.kv_heads) * op.head_dim
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
            ("min_chunk", _TILE),
            ("interleaved", rope.rope.interleaved),
            ("qk_norm", bool(norms)),
            ("eps", low.spec.norm_eps),
            ("scale", op.scale * math.log2(math.e)),
        ),
    )
    shared = (
        queries * op.head_dim * 4
        + 2 * _TILE * (op.head_dim * 2 + 16)
        + queries * _TILE * 4
        + round_up(queries * 12, 16)
        + 16
    )
    partial = low.buffer("attn.partial", op.kv_heads * splits * queries * (op.head_dim + 2) * 4)
    cache = low.layer_cache(op.layer)
    assert cache.binding is not None
    draft = Draft(
        name=group.name,
        entry="attention",
        headers=("stage/attention_decode",),
        stage=Cpp("AttentionDecode", (config,)),
        call=(
            (
                Param("const float*", "qkv", low.buffer("qkv", width * 4)),
                *norm_params(low, norms),
                Param("const std::uint64_t*", "turns", Binding(f"weights/{ROPE_TURNS}")),
                cache,
                low.state("const std::int32_t*", "step.input"),
                low.state("const std::int32_t*", "seq.position"),
                low.state("const std::int32_t*", "seq.table"),
                Param("float*", "partial", partial),
                Param("std::uint32_t*", "arrived", low.buffer("attn.arrived", op.kv_heads * 4)),
                Param("float*", "out", low.buffer("attn", op.out.width * 4)),
            ),
        ),
        grid=(splits, op.kv_heads, 1),
        threads=_THREADS,
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


def parts(group: Group) -> tuple[Attention, Rope, tuple[Weight, ...]]:
    """The attention, one of its two rotary embeddings, and the norm weights of q and k if there are any."""
    attention = group.ops[-1]
    ropes = [op for op in group.ops if isinstance(op, Rope)]
    norms = tuple(op.weight for op in group.ops if isinstance(op, HeadNorm))
    assert isinstance(attention, Attention)
    assert len(norms) in (0, 2)
    return attention, ropes[0], norms


def norm_params(low: Lowering, norms: tuple[Weight, ...]) -> tuple[Param, Param]:
    """The QK-norm weights, or null pointers."""
    if not norms:
        return Param("const float*", "q_norm", None), Param("const float*", "k_norm", None)
    return low.plane(norms[0], "q_norm"), low.plane(norms[1], "k_norm")
