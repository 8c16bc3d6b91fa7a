"""Where the state of a sequence lies: keys and values of 16 positions of a group of layers in a block of the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.cache import Bytes, CacheFormat, Floats
from imp_runtime.plan import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's part of its group's blocks: [k and v][kv head][16 positions] rows of `head_dim` elements.

    From byte `offset` on. `tied`: there are only the keys, of which values are a part.
    """

    format: CacheFormat
    kv_heads: int
    head_dim: int
    tied: bool = False
    group: int = 0
    offset: int = 0

    @property
    def tiles(self) -> int:
        """Of a kv head in a block: keys, and values unless they are a part of these."""
        return 1 if self.tied else 2

    @property
    def nbytes(self) -> int:
        """Bytes of the part."""
        return self.tiles * self.kv_heads * BLOCK_TOKENS * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one position's key, or value, of one head."""
        return self.format.row_bytes(self.head_dim)

    @property
    def position_bytes(self) -> int:
        """Bytes of one position's key and value."""
        return self.nbytes // BLOCK_TOKENS

    def decode(self, blocks: Bytes) -> Floats:
        """uint8[blocks, nbytes] of a sequence in order -> float32[tiles, positions, kv heads, head_dim]."""
        rows = blocks.reshape(len(blocks), self.tiles, self.kv_heads, BLOCK_TOKENS, -1)
        whole = self.format.decode(rows).transpose(1, 0, 3, 2, 4)
        decoded: Floats = np.ascontiguousarray(whole).reshape(self.tiles, -1, self.kv_heads, self.head_dim)
        return decoded


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that have blocks together, of which they use `nbytes`: a row sees `window` positions, 0: all."""

    window: int
    layers: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Of each layer its part, the groups, and the bytes of a block, the same for all groups."""

    layers: tuple[CacheLayer, ...]
    groups: tuple[CacheGroup, ...]
    block_bytes: int
