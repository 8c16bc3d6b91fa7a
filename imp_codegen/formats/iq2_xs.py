"""IQ2_XS: superblocks of 256 weights, a scale per 16, w = d * (2 s + 1) / 8 * number, s 4 bits, number ±8, 25 or 43.

In the file (ggml-common.h, block_iq2_xs): d f16, qs[32] u16, scales[8]. Of each eight weights the low nine bits of one
of qs say which point of `points_iq2_xs.inc` they are, the others seven signs, of which there is an even number with the
eighth. Scale j is nibble j % 2 of byte j // 2.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import signed, weigh, whole_signs
from imp_codegen.grids import IQ2, points

_BLOCK = np.dtype([("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    scales = np.stack([blocks["scales"] & 15, blocks["scales"] >> 4], axis=-1).reshape(*blocks.shape, 16)
    numbers = points("iq2_xs", IQ2)[blocks["qs"] & 511].reshape(*blocks.shape, 256)
    weights = weigh(blocks["d"], scales, 0.125, signed(numbers, whole_signs(blocks["qs"] >> 9)))
    return weights.reshape(len(raw), -1)


FORMAT = Format("IQ2_XS", 256, (Part(74, 256),), _dequantize, ggml_type=17)
