"""Attention over latents, which are keys and values of all heads.

Of a row it is split over the positions, and a kernel adds all parts up; of a prompt's rows two share what a CTA reads.
"""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.attention.parts import Parts, appended, core_config, turns
from imp_codegen.kernels.attention.sizes import (
    LATENT_TEAM,
    latent_bytes,
    latent_chunk_bytes,
    latent_part_bytes,
    latent_queries,
)
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.plan import CacheRead

_TEAMS = 2  # of a CTA that has a multiprocessor to itself, where that has room for them
_SLOTS = 4  # blocks that a team has on their way, and of several rows fewer, so that two CTAs fit
_FEWER_SLOTS = 3
_BATCH_SPLITS = 16  # of each of several sequences
_COLUMNS = 128  # that one CTA of the sum makes
_MERGE_THREADS = 256
_TOKENS = 2  # of a prompt, that share a CTA


def steps(low: Lowering, parts: Parts) -> tuple[KernelSpec, ...]:
    """One row, or one of each of several sequences: what splits leave, and their sum."""
    op, rows = parts.op, low.rows
    items = op.heads // latent_queries(op)
    part, room = low.cache.layers[op.layer], low.target.max_shared
    alone = rows == 1
    splits = max(low.target.attention_ctas // items, 1) if alone else _BATCH_SPLITS

    def fits(teams: int, slots: int) -> bool:
        return latent_bytes(op, part.row_bytes, teams, slots) <= room

    teams = _TEAMS if alone and fits(_TEAMS, _FEWER_SLOTS) else 1
    slots = next(n for n in range(_SLOTS if alone else _FEWER_SLOTS, 0, -1) if fits(teams, n))
    config = core_config(low, parts, splits, 0, teams * LATENT_TEAM)
    several: tuple[int, ...] = () if alone else (rows, parts.width)
    partial = low.buffer("attn.partial", rows * splits * op.heads * latent_part_bytes(op))
    rows_of = {"rows": low.step_rows(), "positions": low.state("const std::int32_t*", "seq.position")}
    step = None if alone else low.step()
    walk = KernelSpec(
        name=op.out.name + ".parts",
        entry="latents",
        headers=("stage/latent_decode", low.cache_header(op.layer)),
        stage=Cpp("LatentDecode", (config, low.cache_row(op.layer), slots, *several)),
        args={
            "qkv": low.value("const float*", parts.inputs[0]),
            "turns": turns(low, parts),
            "cache": low.layer_cache(op.layer),
            **rows_of,
            "table": low.layer_table(op.layer),
            "partial": Param("float*", partial),
            "step": step,
        },
        grid=(splits, items * rows, 1),
        threads=teams * LATENT_TEAM * 32,
        shared_bytes=latent_bytes(op, part.row_bytes, teams, slots),
        overlap=True,
        ops=tuple(map(label, parts.ops)),
        other_bytes=rows * parts.width * 4,
        cache_reads=(CacheRead(0, rows * part.position_bytes),),
    )
    merge = KernelSpec(
        name=op.out.name,
        entry="merge",
        headers=("stage/latent_merge",),
        stage=Cpp("LatentMerge", (config, rows)),
        args={
            "partial": Param("const float*", partial),
            **rows_of,
            "out": low.value("float*", op.out),
            "step": step,
        },
        grid=(op.heads * -(-op.latent // _COLUMNS), rows, 1),
        threads=_MERGE_THREADS,
        shared_bytes=-(-splits * 4 // 16) * 16 + _MERGE_THREADS * 16 + _MERGE_THREADS // 32 * 8,
        overlap=True,
        ops=(label(op),),
        outputs=(*low.output(op.out), *appended(low, op)),
        other_bytes=rows * op.out.width * 4,
    )
    return (walk, merge)


def prompts(low: Lowering, parts: Parts) -> KernelSpec:
    """Any rows, whose q is turned and scaled, and whose k is in the cache."""
    op, rows = parts.op, low.rows
    items = op.heads // latent_queries(op)
    part = low.cache.layers[op.layer]
    nbytes = latent_chunk_bytes(op, part.row_bytes, _TOKENS, _SLOTS)
    config = core_config(low, parts, 1, 0, _TOKENS * LATENT_TEAM, prepared=True)
    return KernelSpec(
        name=op.out.name,
        entry="attend",
        headers=("stage/latent_prefill", low.cache_header(op.layer)),
        stage=Cpp("LatentPrefill", (config, low.cache_row(op.layer), _SLOTS, parts.width)),
        args={
            "q": low.value("const float*", parts.inputs[0]),
            "cache": low.layer_cache(op.layer),
            "positions": low.state("const std::int32_t*", "seq.position"),
            "table": low.layer_table(op.layer),
            "out": low.value("float*", op.out),
            "step": low.step(),
            "sequences": low.step_sequences(),
        },
        grid=(rows, items, 1),  # as many tiles as that where each row has a sequence of its own
        threads=_TOKENS * LATENT_TEAM * 32,
        shared_bytes=nbytes,
        overlap=True,
        ops=(label(op),),
        outputs=(*low.output(op.out), *appended(low, op)),
        other_bytes=rows * (parts.width + op.out.width) * 4,
        cache_reads=(CacheRead(0, -(-rows // _TOKENS) * items * part.position_bytes),),
    )
