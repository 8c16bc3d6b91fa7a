"""IQ1_M: superblocks of 256 weights, a scale per 16, w = d * (2 s + 1) * (number ± 1/8), s 3 bits, number -1, 0 or 1.

In the file (ggml-common.h, block_iq1_m): qs[32], qh[16], scales[4] u16. Eight weights i have byte i of qs, and nibble i
% 2 of byte i // 2 of qh: three bits above it, which point of `points_iq1.inc` they are, and whether the eighth is less
or more. Scale j has bits 3(j % 4) to 3(j % 4) + 2 of its u16; what is above in the four is d, an f16, low nibble first.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import weigh
from imp_codegen.grids import IQ1, points

_BLOCK = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    qh = np.stack([blocks["qh"] & 15, blocks["qh"] >> 4], axis=-1).reshape(*blocks.shape, 32)
    codes = blocks["qs"] | (qh & 7).astype(np.uint16) << 8
    eighth = np.where(qh >> 3, np.float32(-0.125), np.float32(0.125))
    numbers = (points("iq1", IQ1)[codes] + eighth[..., None]).reshape(*blocks.shape, 256)
    scales = blocks["scales"][..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7
    d = np.bitwise_or.reduce(blocks["scales"] >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=-1).view(np.float16)
    return weigh(d, scales.reshape(*blocks.shape, 16), 1.0, numbers).reshape(len(raw), -1)


FORMAT = Format("IQ1_M", 256, (Part(56, 256),), _dequantize, ggml_type=29)
