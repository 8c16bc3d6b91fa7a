"""Attention over latents, keys and values of all heads: split over the positions, then all parts are added up."""

from __future__ import annotations

from imp_codegen.graph import label
from imp_codegen.kernels.attention.parts import Parts, appended, core_config, turns
from imp_codegen.kernels.attention.sizes import LATENT_TEAM, latent_bytes, latent_part_bytes, latent_queries
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_runtime.plan import CacheRead

_TEAMS = 2  # of a CTA that has a multiprocessor to itself, where that has room for them
_SLOTS = 4  # blocks that a team has on their way, and of several rows fewer, so that two CTAs fit
_FEWER_SLOTS = 3
_BATCH_SPLITS = 16  # of each of several sequences
_COLUMNS = 128  # that one CTA of the sum makes
_MERGE_THREADS = 256


def attend(low: Lowering, parts: Parts, *, prepared: bool = False) -> tuple[KernelSpec, ...]:
    """The kernels. `prepared`: of any rows, whose q is turned and scaled, and whose k is in the cache; then one."""
    op, rows = parts.op, low.rows
    items = op.heads // latent_queries(op)
    part, room = low.cache.layers[op.layer], low.target.max_shared
    alone = rows == 1
    splits = max(low.target.attention_ctas // items, 1) if alone else 1 if prepared else _BATCH_SPLITS

    def fits(teams: int, slots: int) -> bool:
        return latent_bytes(op, part.row_bytes, teams, slots) <= room

    teams = _TEAMS if alone and fits(_TEAMS, _FEWER_SLOTS) else 1
    slots = next(n for n in range(_SLOTS if alone else _FEWER_SLOTS, 0, -1) if fits(teams, n))
    config = core_config(low, parts, splits, 0, teams * LATENT_TEAM, prepared=prepared)
    several: tuple[int, ...] = (rows, parts.width) if rows > 1 else ()
    nbytes = rows * splits * op.heads * latent_part_bytes(op)
    partial = Param("float*", low.buffer("attn.partial", nbytes)) if splits > 1 else None
    rows_of = {"rows": low.step_rows(), "positions": low.state("const std::int32_t*", "seq.position")}
    out = low.value("float*", op.out)
    outputs = (*low.output(op.out), *appended(low, op))
    step = low.step() if rows > 1 else None
    walk = KernelSpec(
        name=op.out.name if splits == 1 else op.out.name + ".parts",
        entry="latents",
        headers=("stage/latent_decode", low.cache_header(op.layer)),
        stage=Cpp("LatentDecode", (config, low.cache_row(op.layer), slots, *several)),
        args={
            "qkv": low.value("const float*", parts.inputs[0]),
            "turns": None if prepared else turns(low, parts),
            "cache": low.layer_cache(op.layer),
            **rows_of,
            "table": low.layer_table(op.layer),
            "partial": partial,
            "out": out if splits == 1 else None,
            "step": step,
        },
        grid=(splits, items * rows, 1),
        threads=teams * LATENT_TEAM * 32,
        shared_bytes=latent_bytes(op, part.row_bytes, teams, slots),
        overlap=True,
        ops=tuple(map(label, parts.ops[-1:] if prepared else parts.ops)),
        outputs=outputs if splits == 1 else (),
        other_bytes=rows * (parts.width * 4 + op.out.width * 4),
        cache_reads=(CacheRead(0, rows * part.position_bytes),),
    )
    if partial is None:
        return (walk,)
    merge = KernelSpec(
        name=op.out.name,
        entry="merge",
        headers=("stage/latent_merge",),
        stage=Cpp("LatentMerge", (config, rows)),
        args={"partial": Param("const float*", partial.binding), **rows_of, "out": out, "step": step},
        grid=(op.heads * -(-op.latent // _COLUMNS), rows, 1),
        threads=_MERGE_THREADS,
        shared_bytes=-(-splits * 4 // 16) * 16 + _MERGE_THREADS * 16 + _MERGE_THREADS // 32 * 8,
        overlap=True,
        ops=(label(op),),
        outputs=outputs,
        other_bytes=rows * op.out.width * 4,
    )
    return (walk, merge)
