"""IQ3_S: superblocks of 256 weights in 8 blocks of 32, w = d * (2 s + 1) * number, s 4 bits, number ±1, 3, ..., 15.

In the file (ggml-common.h, block_iq3_s): d f16, qs[64], qh[8], signs[32], scales[4]. Four weights i have byte i of qs,
bit i % 8 of byte i // 8 of qh above it, which point of `points_iq3_s.inc` they are; weight i has bit i of signs. Scale
j is nibble j % 2 of byte j // 2.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import signed, weigh
from imp_codegen.grids import points

_BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    ninth = np.unpackbits(np.ascontiguousarray(blocks["qh"]), axis=-1, bitorder="little").astype(np.uint16)
    scales = np.stack([blocks["scales"] & 15, blocks["scales"] >> 4], axis=-1).reshape(*blocks.shape, 8)
    numbers = points("iq3_s")[blocks["qs"] | ninth << 8].reshape(*blocks.shape, 256)
    return weigh(blocks["d"], scales, 1.0, signed(numbers, blocks["signs"])).reshape(len(raw), -1)


FORMAT = Format("IQ3_S", 256, (Part(110, 256),), _dequantize, ggml_type=21)
