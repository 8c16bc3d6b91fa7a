"""Attention as its stages are told it and as numpy computes it, with a paged cache in which all else is NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BLOCK = 16  # positions of a cache block
EPS = 1e-6
SLOTS = 3  # sequences that have a table


@dataclass(frozen=True)
class Heads:
    """Heads of one layer, how they turn and what they see; its cache is that of layer 1 of two.

    `rope_dim`: elements that turn, all if None. `window`, `soft_cap`: 0 for none. `tokens`: of a full chunk.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int | None = None
    interleaved: bool = False
    magnitude: float = 1.0
    qk_norm: bool = False
    whole_norm: bool = False  # all heads of q together, and those of k
    v_norm: bool = False
    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    tied: bool = False  # v is what k is before norm and rotation
    latent: int = 0  # the last elements of a key, which are its value
    shared: bool = False  # neither k nor v: the cache is an earlier layer's
    tokens: int = 32
    table_blocks: int = 24
    groups: int = 0  # 16 rows each, of a tile of queries; as many as are needed if 0
    wgmma: bool = False  # prompts are attended to by warpgroups
    folds: bool = False  # a CTA may have all spans of a tile

    @property
    def turned(self) -> int:
        return self.head_dim if self.rope_dim is None else self.rope_dim

    @property
    def width(self) -> int:
        """Of a token's q, k and v."""
        rows = 0 if self.shared else 1 if self.tied or self.latent else 2
        return (self.heads + rows * self.kv_heads) * self.head_dim

    @property
    def value_dim(self) -> int:
        return self.latent or self.head_dim

    @property
    def tiles(self) -> int:
        """Of a kv head in a block: keys, and values unless they are a part of these."""
        return 1 if self.latent else 2

    @property
    def values(self) -> int:
        """The head of a row with which v begins."""
        return 0 if self.shared else self.heads + (0 if self.tied or self.latent else self.kv_heads)

    @property
    def norm_sizes(self) -> tuple[int, int]:
        """Of the weights of q's norm and of k's."""
        q, k = (self.heads, self.kv_heads) if self.whole_norm else (1, 1)
        return q * self.head_dim, k * self.head_dim

    @property
    def row(self) -> str:
        """The format of the cache's rows."""
        return f"imp::CacheF16<{self.head_dim}>"

    @property
    def group(self) -> int:
        """Queries that one CTA of decode takes: eight at most of those that share a key, 16 of a latent."""
        each = self.heads // self.kv_heads
        return max(n for n in range(1, 17 if self.latent else 9) if each % n == 0)

    @property
    def tile_groups(self) -> int:
        """Of a CTA of eight warps at most."""
        rows = self.tokens * self.heads // self.kv_heads
        return self.groups or min(8 // -(-self.head_dim // 128), -(-rows // 16))

    @property
    def spans(self) -> int:
        """That a sequence has at most: one for each 512 positions, and fewer where it is long."""
        return -(-self.table_blocks * BLOCK // 512)

    @property
    def block_groups(self) -> int:
        """Of layers that have blocks of their own: layers with a window are one of three."""
        return 3 if self.window else 1

    def entries(self, table: Array) -> Array:
        """A table as the stages are given it: its group's entries, among those of others, where nobody may look."""
        whole = np.full((*table.shape, self.block_groups), -1, np.int32)
        whole[..., 0] = table
        return whole

    @property
    def layer_bytes(self) -> int:
        return self.tiles * self.kv_heads * BLOCK * self.head_dim * 2

    @property
    def scale(self) -> float:
        return float(np.float32(math.log2(math.e) / math.sqrt(self.head_dim)))

    @property
    def frequencies(self) -> Array:
        """Radians a position of every pair that turns."""
        pairs = np.arange(self.turned // 2)
        found: Array = np.longdouble(10000.0) ** (-2 * pairs / np.longdouble(max(self.turned, 1)))
        return found

    def turns(self) -> Array:
        """What the stages read: fractions of a turn in 64 bits; one word where nothing turns."""
        return np.array([int(f / (2 * np.pi) * 2**64) for f in self.frequencies] or [0], np.uint64)

    def config(self, name: str, **more: int) -> str:
        """A config of the stages: their own fields are `more`."""
        fields: dict[str, float] = {"heads": self.heads, "kv_heads": self.kv_heads}
        fields |= {"values": self.values} if name == "AttentionConfig" else {}
        fields |= {"head_dim": self.head_dim}
        fields |= {"latent": self.latent} if name == "AttentionConfig" else {}
        last: dict[str, float] = {"table_blocks": self.table_blocks, "block_groups": self.block_groups}
        last |= {"block_bytes": 2 * self.layer_bytes}
        cap = self.soft_cap * math.log2(math.e)
        rope = {"rope_dim": self.turned, "interleaved": self.interleaved, "magnitude": self.magnitude}
        norms = {
            "qk_norm": self.qk_norm,
            "whole_norm": self.whole_norm,
            "v_norm": self.v_norm,
            "eps": EPS,
            "scale": self.scale,
        }
        match name:
            case "AttentionConfig":
                fields |= {"block_tokens": BLOCK, **last, **more, "window": self.window, **rope, **norms}
                fields |= {"soft_cap": cap} | ({"sinks": True} if self.sinks else {})
            case "RopeAppendConfig":
                fields |= {"rows": self.tokens, "values": self.values, "stride": self.width, **last, **rope, **norms}
            case "AttentionPrefillConfig":
                fields |= {"rows": self.tokens, "stride": self.width, **last}
                fields |= {"window": self.window, "soft_cap": cap}
                fields |= {
                    "groups": self.tile_groups,
                    "ctas": 3,
                    "spans": self.spans,
                    "wgmma": self.wgmma,
                    "folds": self.folds,
                }
                fields |= {"sinks": True} if self.sinks else {}
        return f"imp::{name}{{{', '.join(f'.{key} = {_literal(value)}' for key, value in fields.items())}}}"


def _literal(value: float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{np.float32(value)!s}f" if isinstance(value, float) else str(value)


def sinks_of(case: Heads) -> Array:
    """Float32 [heads]: among the scores, far above all of them, far below; NaN where nobody may look."""
    return np.resize([0.5, 200, 3, -80, -1] if case.sinks else np.nan, case.heads).astype(np.float32)


def hidden(case: Heads, position: int) -> int:
    """The first position that a query at `position` sees."""
    return max(position - case.window + 1, 0) if case.window else 0


def table_and_cache(case: Heads, slot: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A shuffled table [slots, blocks], and a cache of NaN, [blocks, layers, tiles, heads, positions, head_dim]."""
    blocks = case.table_blocks + 3
    table = np.full((SLOTS, case.table_blocks), -1, np.int32)
    table[slot] = rng.permutation(np.arange(1, blocks))[: case.table_blocks]
    return table, np.full((blocks, 2, case.tiles, case.kv_heads, BLOCK, case.head_dim), np.nan, np.float16)


def permuted(case: Heads, rows: Array, positions: Array) -> Array:
    """Cache rows [..., positions, head_dim], moved as the f16 cache has them; the permutation is its own inverse."""
    chunks = case.head_dim // 8
    spread = max(n for n in (1, 2, 4, 8) if chunks % n == 0)
    out = np.empty_like(rows)
    for i, position in enumerate(positions):
        for c in range(chunks):
            to = c ^ (position % spread)
            out[..., i, to * 8 : to * 8 + 8] = rows[..., i, c * 8 : c * 8 + 8]
    return out


def fill(case: Heads, cache: Array, row: Array, kv: Array) -> None:
    """Keys and values [2, kv_heads, positions, head_dim] of the first positions to the cache, by a sequence's table."""
    at = np.arange(kv.shape[2])
    cache[row[at // BLOCK], 1, :, :, at % BLOCK] = np.moveaxis(permuted(case, kv, at), 2, 0)


def gather(case: Heads, cache: Array, row: Array, positions: Array) -> Array:
    """Keys and values of some positions: [2, kv_heads, positions, head_dim]."""
    found = cache[row[positions // BLOCK], 1][np.arange(len(positions)), :, :, positions % BLOCK]
    return permuted(case, np.moveaxis(found, 0, 2), positions)


def layer_base(case: Heads, cache: Array) -> Array:
    """The cache from the layer's part of block 0 on."""
    return cache.reshape(-1).view(np.uint8)[case.layer_bytes :]


def heads_of(case: Heads, qkv: Array, norms: list[Array], positions: Array) -> tuple[Array, Array, Array]:
    """q (scaled), k and v in float64, [tokens, heads, head_dim], from qkv [tokens, width]: norms and rotation."""
    x = qkv.astype(np.float64).reshape(len(qkv), -1, case.head_dim)
    q, k, v = np.split(x, [case.heads, case.heads + case.kv_heads], axis=1)
    v = k if case.tied else v
    if case.qk_norm:
        q, k = (
            _normed(part, (-2, -1) if case.whole_norm else -1) * norm.reshape(-1, case.head_dim) if part.size else part
            for part, norm in zip((q, k), norms, strict=True)
        )
    v = _normed(v) if case.v_norm else v
    return turned(case, q, positions) * case.scale, turned(case, k, positions), v


def _normed(x: Array, axes: int | tuple[int, int] = -1) -> Array:
    found: Array = x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + EPS)
    return found


def turned(case: Heads, x: Array, positions: Array) -> Array:
    """x [tokens, heads, head_dim] rotated by position, as complex numbers."""
    angle = positions[:, None].astype(np.longdouble) * case.frequencies
    turn = ((np.cos(angle) + 1j * np.sin(angle)) * np.float32(case.magnitude)).astype(np.complex128)[:, None]
    dim = case.turned
    first = np.s_[..., 0:dim:2] if case.interleaved else np.s_[..., : dim // 2]
    second = np.s_[..., 1:dim:2] if case.interleaved else np.s_[..., dim // 2 : dim]
    pairs = (x[first] + 1j * x[second]) * turn
    out = x.copy()
    out[first], out[second] = pairs.real, pairs.imag
    return out


def attended(case: Heads, q: Array, kv: Array, start: int) -> Array:
    """Softmax attention in float64, [tokens, heads, value_dim]: q is scaled, its first token is at position `start`."""
    n, length = len(q), kv.shape[2]
    kept = np.repeat(kv.astype(np.float64), case.heads // case.kv_heads, axis=1)
    k, v = kept[0], kept[-1][..., -case.value_dim :]
    scores = np.einsum("thd,hsd->hts", q.astype(np.float64), k)
    if case.soft_cap:
        cap = case.soft_cap * math.log2(math.e)
        scores = cap * np.tanh(scores / cap)
    ahead = np.arange(length) - (start + np.arange(n)[:, None])
    seen = (ahead <= 0) & (ahead > -(case.window or length + 1))
    scores = np.where(seen, scores, -np.inf)
    ones = sinks_of(case).astype(np.float64)[:, None, None] * math.log2(math.e) if case.sinks else -np.inf
    largest = np.maximum(scores.max(-1, keepdims=True), ones)
    weights = np.exp2(scores - largest)
    total = weights.sum(-1, keepdims=True) + np.exp2(ones - largest)
    found: Array = np.einsum("hts,hsd->thd", weights / total, np.nan_to_num(v))
    return found
