"""IQ3_XXS: superblocks of 256 weights in 8 blocks of 32, w = d * (2 s + 1) / 4 * number, s 4 bits, number ±4 to 62.

In the file (ggml-common.h, block_iq3_xxs): d f16, qs[64], rest[8] u32. A byte of qs says which point of
`points_iq3_xxs.inc` four weights are; a block's u32 has seven signs for each eight weights, an even number with the
eighth, and s above.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.formats._grid import signed, weigh, whole_signs
from imp_codegen.grids import points

_BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("rest", "<u4", 8)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    signs = whole_signs(blocks["rest"][..., None] >> np.arange(0, 28, 7, dtype=np.uint32)).reshape(*blocks.shape, 32)
    numbers = points("iq3_xxs")[blocks["qs"]].reshape(*blocks.shape, 256)
    return weigh(blocks["d"], blocks["rest"] >> 28, 0.25, signed(numbers, signs)).reshape(len(raw), -1)


FORMAT = Format("IQ3_XXS", 256, (Part(98, 256),), _dequantize, ggml_type=18)
