"""Attention of one row of each sequence: split over the keys, the last CTA of each kv head merges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from imp_codegen.graph import label
from imp_codegen.kernels.attention.parts import Parts, appended, core_config, norm_weights, sinks, turns
from imp_codegen.kernels.attention.sizes import (
    LEAST_SLOTS,
    attention_bytes,
    attention_warps,
    core_bytes,
    queries_of_cta,
)
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.plan import BLOCK_TOKENS, CacheRead

_MOST_SLOTS = 8  # tiles in flight, a warp: keys and values of four blocks
_BATCH_SPLITS = 4  # of each of several sequences
_BATCH_WARPS = 4
_BATCH_SLOTS = 4
_BATCH_LEAST = 4  # 64 sequences of 512 tokens on an H200: 45 us a layer, with one block of a warp 55, with two 55
# Blocks for each warp before the CTA shares them, since a merge takes longer: 5.9 us at 257 positions of Qwen3-30B-A3B
# on an H200, 7.3 with one. Only of mixtures, which are no step kernel: it has the same sums, and loses 3 % by it.
_ALONE = 2


def lower(low: Lowering, parts: Parts) -> tuple[KernelSpec, ...]:
    """One row: `attention_ctas` CTAs of the target. Several sequences: a few small CTAs each, whatever their number."""
    op, rows = parts.op, low.rows
    queries = queries_of_cta(op)
    items = op.heads // queries
    cache, part = low.layer_cache(op.layer), low.cache.layers[op.layer]
    tile = BLOCK_TOKENS * part.row_bytes
    splits, warps, most = max(low.target.attention_ctas // items, 1), attention_warps(low, op), _MOST_SLOTS
    if rows > 1:
        splits, warps, most = _BATCH_SPLITS, min(warps, _BATCH_WARPS), _BATCH_SLOTS
    fit = (low.target.gemv_shared - core_bytes(op, part.row_bytes, warps)) // (warps * (tile + 8))
    slots = min(max(fit, LEAST_SLOTS), most)
    several: tuple[int, ...] = (rows, parts.width) if rows > 1 else ()
    mixture = any(placed.weight.experts for placed in low.placed.values())
    alone, least = _ALONE if mixture else 1, _BATCH_LEAST if rows > 1 else 1
    core = core_config(low, parts, splits, op.window, warps, alone=alone, least=least)
    partial = rows * items * splits * queries * (op.head_dim + 2) * 4
    kernel = KernelSpec(
        name=op.out.name,
        entry="attention",
        headers=("stage/attention_decode", low.cache_header(op.layer)),
        stage=Cpp("AttentionDecode", (core, low.cache_row(op.layer), slots, *several)),
        args={
            "qkv": low.value("const float*", parts.inputs[0]),
            **norm_weights(low, parts),
            "turns": turns(low, parts),
            "cache": cache,
            "rows": low.step_rows(),
            "positions": low.state("const std::int32_t*", "seq.position"),
            "table": low.layer_table(op.layer),
            "partial": Param("float*", low.buffer("attn.partial", partial)) if splits > 1 else None,
            "arrived": Param("std::uint32_t*", low.buffer("attn.arrived", rows * items * 4)) if splits > 1 else None,
            "out": low.value("float*", op.out),
            "step": low.step() if rows > 1 else None,
            "sinks": sinks(low, op),
            "halfs": None,
            "factors": None,
        },
        grid=(splits, items * rows, 1),
        threads=warps * 32,
        shared_bytes=attention_bytes(op, part.row_bytes, warps, slots),
        overlap=True,
        ops=tuple(map(label, parts.ops)),
        outputs=(*low.output(op.out), *appended(low, op)),
        other_bytes=rows * (parts.width * 4 + op.out.width * 4),
        cache_reads=(CacheRead(op.window, rows * part.position_bytes),),
    )
    return (kernel,)


def handed_over(kernels: Sequence[KernelSpec]) -> Iterator[KernelSpec]:
    """The kernels of a step of several sequences, in which attention encodes its result for the product behind it.

    What a cache of halfs holds needs no scale to stay one, so nobody must have seen a whole row before it is encoded.
    """
    taken = False
    for kernel, following in zip(kernels, (*kernels[1:], None), strict=True):
        encoded = None if following is None else _encoded(kernel, following)
        if not taken:
            yield encoded or kernel
        taken = encoded is not None


def _encoded(kernel: KernelSpec, encoder: KernelSpec) -> KernelSpec | None:
    """Attention that leaves what an encoder would make of its result and of nothing else; None of others."""
    if (kernel.stage.name, encoder.stage.name) != ("AttentionDecode", "EncodeActivations"):
        return None
    config, out, x = encoder.stage.args[0], kernel.args["out"], encoder.args["x"]
    assert isinstance(config, Config)
    assert isinstance(out, Param)
    fields = dict(config.fields)
    plain = isinstance(x, Param) and x.binding == out.binding and encoder.args["pairs"] is None
    if not plain or fields["norm"] or fields["dense"] or fields["fp4"] or int(fields["cols"]) % 128:
        return None
    order = "FragmentOrder" if fields["fragments"] else "PanelOrder"
    return replace(
        kernel,
        headers=(*kernel.headers, "stage/fragments" if fields["fragments"] else "stage/panel"),
        stage=Cpp(kernel.stage.name, (*kernel.stage.args, Cpp(order))),
        args={**kernel.args, "halfs": encoder.args["panels"], "factors": encoder.args["factors"]},
        ops=(*kernel.ops, *encoder.ops),
        other_bytes=kernel.other_bytes + encoder.other_bytes // 3,
    )
