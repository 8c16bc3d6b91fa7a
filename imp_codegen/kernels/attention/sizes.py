"""How attention is cut: queries of a CTA, its warps, and the shared memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.ops import Attention
from imp_runtime.plan import BLOCK_TOKENS

LEAST_SLOTS = 2  # a warp: a block's keys and values


def attention_warps(low: Lowering, op: Attention) -> int:
    """Warps of a CTA that attend, in either form; the step kernel's other phases have as many.

    Fewer where a layer has little to do, or where the queries of a CTA leave no room for the tiles of more.
    """
    matrices = sum(p.plane.nbytes for p in low.placed.values() if p.tile is not None)
    target = low.target
    small = matrices / len(low.cache.layers) / target.sms < target.small_layer
    most = min(target.step_warps, target.small_layer_warps) if small else target.step_warps
    row, room = low.cache.layers[op.layer].row_bytes, target.max_shared
    return next(n for n in range(most, 0, -1) if n == 1 or attention_bytes(op, row, n, LEAST_SLOTS) <= room)


def queries_of_cta(shape: Attention) -> int:
    """Query heads of one kv head that one CTA takes: a share of them, eight at most."""
    group = shape.heads // shape.kv_heads
    return next(group // n for n in range(1, group + 1) if group % n == 0 and group // n <= 8)


def core_bytes(shape: Attention, row_bytes: int, warps: int) -> int:
    """Shared memory of decode attention in either form: the CTA's queries, the new key and value, each warp's part.

    `row_bytes`: of a row of the cache.
    """
    queries = queries_of_cta(shape)
    parts = warps * queries * (shape.head_dim + 2) * 4
    return round_up(queries * shape.head_dim * 4 + 2 * row_bytes + parts, 16)


def attention_bytes(shape: Attention, row_bytes: int, warps: int, slots: int) -> int:
    """Shared memory of decode attention as a kernel: the same, the warps' rings of cache tiles, and a flag."""
    tiles = warps * slots * BLOCK_TOKENS * row_bytes + round_up(warps * slots * 8, 16)
    return tiles + core_bytes(shape, row_bytes, warps) + 16


@dataclass(frozen=True, slots=True)
class ChunkTiles:
    """How several rows are attended to: a CTA's warps, queries and keys of a tile, shared memory, CTAs a head.

    The twin of AttentionPrefill.
    """

    warps: int
    queries: int
    keys: int
    shared_bytes: int
    grid: int


def chunk_tiles(op: Attention, rows: int) -> ChunkTiles:
    """Several warps share a head of more than 128 elements, and add up their scores in shared memory."""
    parts = -(-op.head_dim // 128)
    groups = 4 if rows % 64 == 0 and parts <= 2 else 2
    keys = {1: 64, 2: 32}.get(parts, 16)
    scores = groups * parts * 16 * keys * 4 if parts > 1 else 0
    shared_bytes = 4 * keys * (op.head_dim * 2 + 16) + scores
    return ChunkTiles(groups * parts, groups * 16, keys, shared_bytes, 2 * rows // (groups * 16))
