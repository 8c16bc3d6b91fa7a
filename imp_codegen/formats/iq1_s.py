"""IQ1_S: superblocks of 256 weights in 8 blocks of 32, w = d * (2 s + 1) * (number ± 1/8), s 3 bits, number -1, 0, 1.

In the file (ggml-common.h, block_iq1_s): d f16, qs[32], qh[8] u16. Eight weights i of a block have a byte of qs, and
bits 3i to 3i + 2 of its qh above it, which point of `points_iq1.inc` they are; bits 12 to 14 are s, and the last one
says whether the eighth is less or more.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import weigh
from imp_codegen.grids import IQ1, points

_BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", (8, 4)), ("qh", "<u2", 8)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    qh = blocks["qh"]
    codes = blocks["qs"] | (qh[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7) << 8
    eighth = np.where(qh >> 15, np.float32(-0.125), np.float32(0.125))
    numbers = points("iq1", IQ1)[codes].reshape(*qh.shape, 32) + eighth[..., None]
    return weigh(blocks["d"], qh >> 12 & 7, 1.0, numbers).reshape(len(raw), -1)


FORMAT = Format("IQ1_S", 256, (Part(50, 256),), _dequantize, ggml_type=19)
