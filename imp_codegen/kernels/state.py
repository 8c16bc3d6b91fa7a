"""Where the state of a sequence lies: a block of the cache holds the keys and values of 16 positions of every layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.cache import Bytes, CacheFormat, Floats
from imp_runtime.plan import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's part of a block: [k and v][kv head][16 positions] rows of `head_dim` elements, from `offset` on."""

    format: CacheFormat
    kv_heads: int
    head_dim: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the part."""
        return 2 * self.kv_heads * BLOCK_TOKENS * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one position's key, or value, of one head."""
        return self.format.row_bytes(self.head_dim)

    @property
    def position_bytes(self) -> int:
        """Bytes of one position's key and value."""
        return self.nbytes // BLOCK_TOKENS

    def decode(self, blocks: Bytes) -> Floats:
        """uint8[blocks, nbytes] of a sequence in order -> float32[k and v, positions, kv heads, head_dim]."""
        rows = blocks.reshape(len(blocks), 2, self.kv_heads, BLOCK_TOKENS, -1)
        whole = self.format.decode(rows).transpose(1, 0, 3, 2, 4)
        decoded: Floats = np.ascontiguousarray(whole).reshape(2, -1, self.kv_heads, self.head_dim)
        return decoded


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The parts of a block, in order."""

    layers: tuple[CacheLayer, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return sum(layer.nbytes for layer in self.layers)
