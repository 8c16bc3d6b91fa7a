"""Q3_K: codes of three bits in three words a block of 32, for few instructions a weight.

Each byte of the words a, b and c has two codes, in bits 0-2 those of q[0..3], q[4..7] and q[8..11], in bits 3-5 those
of q[16..19], q[20..23] and q[24..27]. The other eight are spread over bits 6 and 7: the low two bits of q[12..15] are
a's, of q[28..31] c's, and their third ones are b's bits 6 and 7. First a and b of all blocks, then c, then a signed
byte for each scale of 16 weights, then all d: 3.5625 bits, where the file has 3.4375, and 1.11 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, two_bits
from imp_codegen.layouts import Layout

_BLOCK = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("low", "u1", 8), ("high", "u1", 4), ("d", "V2")])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q3_K" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    third = blocks["hmask"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = two_bits(blocks["qs"]) | third.reshape(*blocks.shape, 256) * np.uint8(4)
    q = np.ascontiguousarray(codes).view("<u4").reshape(-1, 8).T
    first = np.empty((codes.size // 32, 2), "<u4")
    first[:, 0] = q[0] | q[4] << 3 | (q[3] & 0x03030303) << 6
    first[:, 1] = q[1] | q[5] << 3 | (q[3] & 0x04040404) << 4 | (q[7] & 0x04040404) << 5
    rest = q[2] | q[6] << 3 | (q[7] & 0x03030303) << 6
    low = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=-1)
    high = np.concatenate([blocks["high"] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    scales = (low | high << 4).astype(np.int8) - np.int8(32)
    return (
        first.view(np.uint8).reshape(rows, -1),
        rest.view(np.uint8).reshape(rows, -1),
        scales.view(np.uint8).reshape(rows, -1),
        np.ascontiguousarray(blocks["d"]).view(np.uint8),
    )


def _decode(fmt: Format, first: Bytes, rest: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(first)
    a, b = np.moveaxis(first.reshape(rows, -1, 2, 4), 2, 0)  # rows, blocks, byte
    c = rest.reshape(rows, -1, 4)
    low = [a & 7, b & 7, c & 7, a >> 6 | (b >> 6 & 1) << 2]
    high = [a >> 3 & 7, b >> 3 & 7, c >> 3 & 7, c >> 6 | (b >> 7) << 2]
    q = np.concatenate([*low, *high], axis=-1).astype(np.float32) - np.float32(4)
    signed = np.ascontiguousarray(scales).view(np.int8).reshape(rows, -1, 16).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = np.ascontiguousarray(d).view("<f2").astype(np.float32)[..., None] * signed
        weights: Floats = steps.reshape(rows, -1, 1) * q.reshape(rows, -1, 16)
    return weights.reshape(rows, -1)


LAYOUT = Layout(
    name="Q3_K",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(4, 32), Part(1, 16), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
