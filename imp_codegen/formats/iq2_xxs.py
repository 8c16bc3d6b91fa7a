"""IQ2_XXS: superblocks of 256 weights in 8 blocks of 32, w = d * (2 s + 1) / 8 * number, s 4 bits, number ±8, 25, 43.

In the file (ggml-common.h, block_iq2_xxs): d f16, then of each block four bytes, which points of `points_iq2_xxs.inc`
its weights are, and a u32 with seven signs for each point, its eighth weight's making an even number, and s above.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import signed, weigh, whole_signs
from imp_codegen.grids import IQ2, points

_BLOCK = np.dtype([("d", "<f2"), ("blocks", [("codes", "u1", 4), ("rest", "<u4")], 8)])


def _dequantize(raw: Bytes) -> Floats:
    superblocks = np.ascontiguousarray(raw).view(_BLOCK)
    blocks = superblocks["blocks"]
    signs = whole_signs(blocks["rest"][..., None] >> np.arange(0, 28, 7, dtype=np.uint32))
    numbers = points("iq2_xxs", IQ2)[blocks["codes"]].reshape(*blocks.shape, 32)
    weights = weigh(superblocks["d"], blocks["rest"] >> 28, 0.125, signed(numbers, signs))
    return weights.reshape(len(raw), -1)


FORMAT = Format("IQ2_XXS", 256, (Part(66, 256),), _dequantize, ggml_type=16)
