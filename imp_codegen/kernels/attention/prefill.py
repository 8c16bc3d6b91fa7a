"""Attention of several rows: q is rotated where it lies, k and v appended, then causal attention."""

from __future__ import annotations

import math

from imp_codegen.graph import label
from imp_codegen.kernels.attention import latent
from imp_codegen.kernels.attention.parts import Parts, appended, norm_weights, rotation, sinks, turns, with_sinks
from imp_codegen.kernels.attention.sizes import FIRST_SPAN, ChunkTiles, chunk_tiles, most_spans
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Attention
from imp_runtime.plan import CacheRead, Tiles

_APPEND_THREADS = 256


def lower(low: Lowering, parts: Parts) -> tuple[KernelSpec, ...]:
    """Two kernels: all rows are in the cache before any of them is attended to."""
    if parts.op.latent:
        return (_append(low, parts), latent.prompts(low, parts))
    return (_append(low, parts), _attend(low, parts))


def _append(low: Lowering, parts: Parts) -> KernelSpec:
    op, rope = parts.op, parts.rope
    rows = (("values", parts.values), ("latent", op.latent), ("stride", parts.width))
    config = Config("RopeAppendConfig", (*_heads(low, op), *rows, *low.paging(), *rotation(parts)))
    return KernelSpec(
        name=op.out.name + ".append",
        entry="append",
        headers=("stage/rope_append", low.cache_header(op.layer)),
        stage=Cpp("RopeAppend", (config, low.cache_row(op.layer))),
        args={
            "qkv": low.value("float*", parts.inputs[0]),
            **norm_weights(low, parts),
            "turns": turns(low, parts),
            "cache": low.layer_cache(op.layer),
            "table": low.layer_table(op.layer),
            "positions": low.state("const std::int32_t*", "seq.position"),
            "step": low.step(),
            "rows": low.step_rows(),
        },
        grid=(low.rows, 1, 1),
        threads=_APPEND_THREADS,
        shared_bytes=(rope.dim // 2 * 8 if rope else 0) + (2 * _APPEND_THREADS // 32 * 4 if parts.whole else 0),
        overlap=True,
        ops=tuple(map(label, parts.ops[:-1])),
        other_bytes=2 * low.rows * parts.width * 4,
    )


def _attend(low: Lowering, parts: Parts) -> KernelSpec:
    op, rows = parts.op, low.rows
    tiles = chunk_tiles(op, rows, low.target)
    spans = most_spans(low.context, op.window, rows)
    ctas = min(tiles.per_sm * low.target.sms, spans * tiles.of(op, rows))
    sight = (("window", op.window), ("soft_cap", op.softcap * math.log2(math.e)))
    cut = (("groups", tiles.groups), ("ctas", ctas), ("spans", spans), ("wgmma", tiles.wgmma), ("folds", tiles.folds))
    config = Config(
        "AttentionPrefillConfig",
        (*_heads(low, op), ("stride", parts.width), *low.paging(), *sight, *cut, *with_sinks(op)),
    )
    split = tiles.split_rows(op, rows, ctas)
    partial = low.buffer("attn.partials", split * op.heads * spans * (op.head_dim + 2) * 4)
    cache, part = low.layer_cache(op.layer), low.cache.layers[op.layer]
    return KernelSpec(
        name=op.out.name,
        entry="attend",
        headers=("stage/attention_prefill", low.cache_header(op.layer)),
        stage=Cpp("AttentionPrefill", (config, low.cache_row(op.layer))),
        args={
            "q": low.value("const float*", parts.inputs[0]),
            "cache": Param("const std::uint8_t*", cache.binding),
            "table": low.layer_table(op.layer),
            "positions": low.state("const std::int32_t*", "seq.position"),
            "partial": Param("float*", partial),
            "arrived": Param("std::uint32_t*", low.buffer("attn.arrivals", rows * op.heads // tiles.heads * 4)),
            "out": low.value("float*", op.out),
            "step": low.step(),
            "sequences": low.step_sequences(),
            "sinks": sinks(low, op),
        },
        grid=(ctas, 1, 1),
        threads=tiles.warps * 32,
        shared_bytes=tiles.shared_bytes,
        per_sm=tiles.per_sm,
        overlap=True,
        ops=(label(op),),
        outputs=(*low.output(op.out), *appended(low, op)),
        other_bytes=2 * rows * op.out.width * 4,
        cache_reads=(CacheRead(op.window and op.window + rows, part.position_bytes),),
        tiles=_tiles(op, tiles, rows),
    )


def _tiles(op: Attention, tiles: ChunkTiles, rows: int) -> Tiles:
    """Up to 64 rows and a tile of keys: scores and values."""
    groups = min(tiles.groups, 4)
    ops = 2 * 2 * groups * 16 * tiles.keys * op.head_dim
    sight = op.window and op.window + tiles.tokens
    ctas = tiles.of(op, rows) * tiles.groups // groups
    kind = f"attention {op.head_dim}{' wgmma' if tiles.wgmma else ''}"
    return Tiles(kind, "f16", ops, 0, tiles.keys, sight, ctas, FIRST_SPAN // tiles.keys)


def _heads(low: Lowering, op: Attention) -> tuple[tuple[str, int], ...]:
    return (("heads", op.heads), ("kv_heads", op.kv_heads), ("head_dim", op.head_dim), ("rows", low.rows))
