"""Q4_K: 4-bit codes, and scales and minima of 6 bits, repacked for few instructions a weight.

Packed: codes, 16 bytes per block, byte i = q[i] | q[16+i] << 4; then per superblock 16 bytes of d, dmin,
bytes[8] (byte j = (sc_j & 15) | (m_j >> 2) << 4) and a u32 with (m_j & 3) | (sc_j >> 4) << 2 in bits 4j..4j+3: a kernel
puts sc and 4m together with one instruction each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout

_BLOCK = np.dtype([("d", "V4"), ("scales", "V12"), ("qs", "V128")])
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)


def _codes(qs: Bytes) -> Bytes:
    words = qs.view("<u8").reshape(-1, 2, 2)  # chunk of 32 bytes, its half, word
    first, second = words[:, 0], words[:, 1]
    codes = np.empty((len(words), 2, 2), "<u8")  # chunk, block of the chunk, word
    codes[:, 0] = (first & _LOW) | (second & _LOW) << np.uint64(4)
    codes[:, 1] = (first >> np.uint64(4)) & _LOW | (second & ~_LOW)
    return codes.reshape(-1).view(np.uint8)


def _meta(d: Bytes, scales: Bytes) -> Bytes:
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


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    qs = np.ascontiguousarray(blocks["qs"]).reshape(-1).view(np.uint8)
    d = np.ascontiguousarray(blocks["d"]).reshape(-1).view(np.uint8)
    scales = np.ascontiguousarray(blocks["scales"]).reshape(-1).view(np.uint8)
    return _codes(qs).reshape(rows, -1), _meta(d, scales).reshape(rows, -1)


def _decode(fmt: Format, codes: Bytes, meta: Bytes) -> Floats:
    rows = len(codes)
    packed = codes.reshape(rows, -1, 8, 16)
    q = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32)
    head = np.ascontiguousarray(meta).reshape(rows, -1, 16)
    d, dmin = (head[..., i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    byte = head[..., 4:12]
    rest = head[..., 12:16].copy().view("<u4") >> np.arange(0, 32, 4, dtype=np.uint32)
    sc = ((byte & 15) | (rest >> 2 & 3) << 4).astype(np.float32)
    m = ((byte >> 4 << 2) | (rest & 3)).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        return ((d * sc)[..., None] * q - (dmin * m)[..., None]).reshape(rows, -1)


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q4_K" else None


LAYOUT = Layout(
    name="Q4_K",
    activation="q8",
    tile_weights=4096,
    prefill_planes=2,
    halfs=True,
    sections=(Part(16, 32), Part(16, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
