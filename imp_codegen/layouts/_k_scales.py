"""The scales of Q4_K and Q5_K: d and dmin, and of each of eight blocks a scale and a minimum of six bits, in 16 bytes.

d, dmin, bytes[8] (byte j = (sc_j & 15) | (m_j >> 2) << 4) and a u32 with (m_j & 3) | (sc_j >> 4) << 2 in bits 4j..4j+3:
a kernel puts sc and 4m together with one instruction each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats


def pack_scales(d: Bytes, scales: Bytes) -> Bytes:
    """Of all superblocks: d and dmin as the file has them, 4 bytes each, and the 12 bytes of its scales."""
    words = scales.view(np.uint32).reshape(-1, 3)
    sc, m = words[:, 0], words[:, 1]
    meta = np.empty((len(words), 4), np.uint32)
    meta[:, 0] = d.view(np.uint32)
    low = words[:, 2]  # of sc and m in blocks 4 to 7
    meta[:, 1] = (sc & 0x0F0F0F0F) | (m & 0x3C3C3C3C) << 2
    meta[:, 2] = (low & 0x0F0F0F0F) | (low >> 2 & 0x30303030) | (m & 0xC0C0C0C0)
    meta[:, 3] = _nibbles(m, sc >> 4) | _nibbles(low >> 4, sc >> 6) << 16
    return meta.reshape(-1).view(np.uint8)


def _nibbles(m: NDArray[np.integer], sc: NDArray[np.integer]) -> NDArray[np.integer]:
    """The low two bits of the four bytes of m and sc, as four nibbles in 16 bits."""
    spread = (m & 0x03030303) | (sc & 0x03030303) << 2
    spread = spread | spread >> 4
    return spread & 0xFF | (spread >> 8) & 0xFF00


def weigh(q: Floats, meta: Bytes) -> Floats:
    """Codes float32[n, superblocks, 8, 32] as weights float32[n, cols]."""
    head = np.ascontiguousarray(meta).reshape(*q.shape[:2], 16)
    d, dmin = (head[..., i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    byte = head[..., 4:12]
    rest = head[..., 12:16].copy().view("<u4") >> np.arange(0, 32, 4, dtype=np.uint32)
    sc = ((byte & 15) | (rest >> 2 & 3) << 4).astype(np.float32)
    m = ((byte >> 4 << 2) | (rest & 3)).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (d * sc)[..., None] * q - (dmin * m)[..., None]
    return weights.reshape(len(q), -1)
