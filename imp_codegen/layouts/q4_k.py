"""Q4_K: 4-bit codes, and scales and minima of 6 bits, repacked for few instructions a weight.

Packed: codes, 16 bytes per block, byte i = q[i] | q[16+i] << 4; then per superblock 16 bytes of scales
(`_k_scales.py`). 4.5 bits and 1.02 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout
from imp_codegen.layouts._k_scales import pack_scales, weigh

_BLOCK = np.dtype([("d", "V4"), ("scales", "V12"), ("qs", "V128")])
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)


def _codes(qs: Bytes) -> Bytes:
    words = qs.view("<u8").reshape(-1, 2, 2)  # chunk of 32 bytes, its half, word
    first, second = words[:, 0], words[:, 1]
    codes = np.empty((len(words), 2, 2), "<u8")  # chunk, block of the chunk, word
    codes[:, 0] = (first & _LOW) | (second & _LOW) << np.uint64(4)
    codes[:, 1] = (first >> np.uint64(4)) & _LOW | (second & ~_LOW)
    return codes.reshape(-1).view(np.uint8)


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    qs = np.ascontiguousarray(blocks["qs"]).reshape(-1).view(np.uint8)
    d = np.ascontiguousarray(blocks["d"]).reshape(-1).view(np.uint8)
    scales = np.ascontiguousarray(blocks["scales"]).reshape(-1).view(np.uint8)
    return _codes(qs).reshape(rows, -1), pack_scales(d, scales).reshape(rows, -1)


def _decode(fmt: Format, codes: Bytes, meta: Bytes) -> Floats:
    rows = len(codes)
    packed = codes.reshape(rows, -1, 8, 16)
    q = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32)
    return weigh(q, meta)


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q4_K" else None


LAYOUT = Layout(
    name="Q4_K",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(16, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
