"""Q6_K: 6-bit codes, repacked so that lanes read 16 bytes at a time.

Packed: sixteen codes take three words a, b, c: the low six bits of a's bytes are q[0..3], of b's q[4..7], of c's
q[8..11]; the upper two bits of byte i are bits 0-1 (a), 2-3 (b) and 4-5 (c) of q[12+i]. First a, b, a', b' of each
block's halves, 16 bytes; then c, c', 8 bytes a block; all scales of a row; all d. 1.19 instructions a
weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout

Words = NDArray[np.uint32]

_BLOCK = np.dtype([("ql", "V128"), ("qh", "V64"), ("scales", "V16"), ("d", "V2")])


def _codes(ql: Bytes, qh: Bytes) -> Words:
    """Six-bit codes in bytes: u32[superblocks, 8 blocks, 2 halves, 4]."""
    low = ql.view("<u4").reshape(-1, 2, 2, 8)  # half of the superblock, k % 2, word
    high = qh.view("<u4").reshape(-1, 2, 8)
    codes = np.empty((len(low), 2, 4, 8), "<u4")
    for k in range(4):
        codes[:, :, k] = (low[:, :, k % 2] >> 4 * (k // 2)) & 0x0F0F0F0F
        codes[:, :, k] |= (high >> 2 * k & 0x03030303) << 4
    return codes.reshape(-1, 8, 2, 4)


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    ql, qh, scales, d = (
        np.ascontiguousarray(blocks[field]).reshape(-1).view(np.uint8) for field in ("ql", "qh", "scales", "d")
    )
    codes = _codes(ql, qh)
    last = codes[..., 3]
    words = [codes[..., i] | (last >> 2 * i & 0x03030303) << 6 for i in range(3)]
    return (
        np.stack(words[:2], axis=-1).reshape(rows, -1).view(np.uint8),
        words[2].reshape(rows, -1).view(np.uint8),
        scales.reshape(rows, -1),
        d.reshape(rows, -1),
    )


def _decode(fmt: Format, first: Bytes, rest: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(first)
    a, b = np.moveaxis(first.reshape(rows, -1, 2, 4), 2, 0)  # rows, half a block, byte
    c = rest.reshape(rows, -1, 4)
    last = a >> 6 | (b >> 6) << 2 | (c >> 6) << 4
    q = np.concatenate([a & 63, b & 63, c & 63, last], axis=-1).astype(np.float32) - np.float32(32)
    sc = np.ascontiguousarray(scales).view(np.int8).reshape(rows, -1, 16).astype(np.float32)
    factor = np.ascontiguousarray(d).view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        step = (factor[:, :, None] * sc).reshape(rows, -1, 1)
        weights: Floats = (step * q.reshape(rows, -1, 16)).reshape(rows, -1)
    return weights


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q6_K" else None


LAYOUT = Layout(
    name="Q6_K",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(8, 32), Part(1, 16), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
