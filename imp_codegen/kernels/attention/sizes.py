"""How attention is cut: queries of a CTA, its warps, and the shared memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.ops import Attention
from imp_codegen.targets import Target
from imp_runtime.plan import BLOCK_TOKENS

FIRST_SPAN = 512  # positions
_RESERVED = 1024  # bytes of shared memory that the system takes of each CTA


LEAST_SLOTS = 2  # tiles that a warp needs at once: a block's keys and values
LATENT_TEAM = 4  # warps that share a block of latents


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
    return _share(shape.heads // shape.kv_heads, 8)


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


def latent_queries(shape: Attention) -> int:
    """Heads that one CTA takes where all share a latent: a share of them, 16 at most."""
    return _share(shape.heads, 16)


def latent_part_bytes(shape: Attention) -> int:
    """What a split of the positions leaves of one head's output."""
    return (shape.latent + 4) * 4


def latent_bytes(shape: Attention, row_bytes: int, teams: int, slots: int) -> int:
    """Shared memory of LatentDecode: rings of blocks, the queries or the scores of two blocks, the new row."""
    queries = latent_queries(shape)
    scores = 2 * teams * LATENT_TEAM * -(-queries // 8) * 32 * 16
    tiles = teams * slots * BLOCK_TOKENS * row_bytes + round_up(teams * slots * 8, 16)
    return tiles + max(queries * shape.head_dim * 4, scores) + row_bytes


def latent_chunk_bytes(shape: Attention, row_bytes: int, tokens: int, slots: int) -> int:
    """Shared memory of LatentPrefill: one ring of blocks, the scores of two for each token."""
    scores = 2 * tokens * LATENT_TEAM * -(-latent_queries(shape) // 8) * 32 * 16
    return slots * BLOCK_TOKENS * row_bytes + round_up(slots * 8, 16) + scores


def _share(heads: int, most: int) -> int:
    """The largest divisor of so many heads that is not above `most`."""
    return next(heads // n for n in range(1, heads + 1) if heads % n == 0 and heads // n <= most)


def span_of(position: int) -> int:
    """The span of a position: two of each size, as AttentionSpans has them."""
    n, scaled = 0, position // FIRST_SPAN
    while scaled >= 4:
        n, scaled = n + 2, scaled // 2
    return n + scaled


def most_spans(context: int, window: int, rows: int) -> int:
    """Spans that the queries of so many rows of a sequence see at most."""
    whole = span_of(context - 1) + 1
    return min(whole, -(-(window + rows) // FIRST_SPAN) + 1) if window else whole


@dataclass(frozen=True, slots=True)
class ChunkTiles:
    """How several rows are attended to, the twin of AttentionPrefill.

    A tile has `groups` of 16 rows, which are `tokens` tokens' queries for `heads` heads that share a key, and goes
    through `keys` keys at a time. `per_sm`: CTAs that a multiprocessor has room for. `wgmma`: warpgroups multiply.
    `folds`: a CTA has room to go through all spans of a tile, one after the other.
    """

    groups: int
    warps: int
    tokens: int
    heads: int
    keys: int
    shared_bytes: int
    per_sm: int
    wgmma: bool
    folds: bool

    def of(self, op: Attention, rows: int) -> int:
        """Tiles of so many rows of one sequence."""
        return -(-rows // self.tokens) * op.heads // self.heads

    def split_rows(self, op: Attention, rows: int, ctas: int) -> int:
        """Rows of steps whose tiles are split by spans: where CTAs fold them, what leaves half of these without."""
        return max(min(rows, ctas * self.heads // (2 * op.heads) * self.tokens), 1) if self.folds else rows


def chunk_tiles(op: Attention, rows: int, target: Target) -> ChunkTiles:
    """A CTA has eight warps; or four and half of a multiprocessor, where there were else fewer tiles than these.

    Warpgroups have half of one wherever two fit, as these do not wait for each other: on an H200 512 rows of the 8B
    behind 3,584 positions reach 300 TFLOP/s so, 2,048 rows behind 2,048 160 where two share a CTA.
    Several warps share a head of more than 128 elements, and add up their scores in shared memory. Warpgroups take
    parts of heads that consist of panels of 64 elements, and no more than two.
    """
    parts = -(-op.head_dim // 128)
    wgmma = target.wgmma and parts <= 2 and op.head_dim % (64 * parts) == 0
    keys = 64 if wgmma else {1: 64, 2: 32}.get(parts, 16)
    buffers = 4 * keys * (op.head_dim * 2 + (0 if wgmma else 16))
    queries = op.heads // op.kv_heads

    def tiles(most: int) -> ChunkTiles:
        groups = most // parts if wgmma else min(most // parts, -(-rows * queries // 16))
        heads = next(queries // n for n in range(1, queries + 1) if queries % n == 0 and queries // n <= groups * 16)
        scores = groups * parts * 16 * keys * 4 if parts > 1 else 0
        shared, warps = buffers + scores + 16, groups * parts
        per_sm = 2 if warps <= 4 and 2 * (shared + _RESERVED) <= target.card.shared else 1
        folded = shared + (2 * -(-op.head_dim // (16 * parts)) + 1) * warps * 32 * 16
        room = folded <= target.max_shared and per_sm * (folded + _RESERVED) <= target.card.shared
        folds = wgmma and room  # by warps there are too few registers
        tokens = groups * 16 // heads
        return ChunkTiles(groups, warps, tokens, heads, keys, folded if folds else shared, per_sm, wgmma, folds)

    whole, half = tiles(8), tiles(4)
    fits = half.per_sm == 2 and half.groups % 4 == 0
    return half if fits and (half.wgmma or whole.of(op, rows) < target.sms) else whole
