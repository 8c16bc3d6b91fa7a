"""Q2_K: codes of two bits in two words a block of 32, then a byte for each 16 weights, then d and dmin.

Bits 2k, 2k+1 of byte i are q[8k+i] in the first word and q[8k+4+i] in the second. Of two scales and minima the bytes
are s1 | s0 << 4 and m0 | m1 << 4, so that none has to be shifted. 2.625 bits and 1.13 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, two_bits
from imp_codegen.layouts import Layout

_BLOCK = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "V4")])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q2_K" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    codes = np.ascontiguousarray(two_bits(blocks["qs"])).view("<u8").reshape(-1, 4)
    words = codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6
    first, second = np.moveaxis(blocks["scales"].reshape(rows, -1, 2), 2, 0)
    scales = np.stack([second & 15 | (first & 15) << 4, first >> 4 | second & 0xF0], axis=-1)
    return (
        words.view(np.uint8).reshape(rows, -1),
        scales.reshape(rows, -1),
        np.ascontiguousarray(blocks["d"]).view(np.uint8).reshape(rows, -1),
    )


def _decode(fmt: Format, codes: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(codes)
    eight = codes.reshape(rows, -1, 1, 8) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    q = eight.reshape(rows, -1, 16, 16).astype(np.float32)
    halfs = np.ascontiguousarray(d).view("<f2").astype(np.float32).reshape(rows, -1, 2, 1)
    s, m = np.moveaxis(scales.reshape(rows, -1, 2), 2, 0)
    s = np.stack([s >> 4, s & 15], axis=-1).reshape(rows, -1, 16).astype(np.float32)
    m = np.stack([m & 15, m >> 4], axis=-1).reshape(rows, -1, 16).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (halfs[:, :, 0] * s)[..., None] * q - (halfs[:, :, 1] * m)[..., None]
    return weights.reshape(rows, -1)


LAYOUT = Layout(
    name="Q2_K",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(1, 16), Part(4, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
