"""IQ2_S: superblocks of 256 weights, a scale per 16, w = d * (2 s + 1) / 8 * number, s 4 bits, number ±8, 25 or 43.

In the file (ggml-common.h, block_iq2_s): d f16, qs[32], signs[32], qh[8], scales[8]. Eight weights i have byte i of qs,
bits 2(i % 4), 2(i % 4) + 1 of byte i // 4 of qh above it, which point of `points_iq2_s.inc` they are, and the bits of
byte i of signs. Scale j is nibble j % 2 of byte j // 2.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import signed, weigh
from imp_codegen.grids import IQ2, points

_BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    high = (blocks["qh"][..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).astype(np.uint16)
    codes = blocks["qs"] | high.reshape(*blocks.shape, 32) << 8
    scales = np.stack([blocks["scales"] & 15, blocks["scales"] >> 4], axis=-1).reshape(*blocks.shape, 16)
    numbers = points("iq2_s", IQ2)[codes].reshape(*blocks.shape, 256)
    return weigh(blocks["d"], scales, 0.125, signed(numbers, blocks["signs"])).reshape(len(raw), -1)


FORMAT = Format("IQ2_S", 256, (Part(82, 256),), _dequantize, ggml_type=22)
