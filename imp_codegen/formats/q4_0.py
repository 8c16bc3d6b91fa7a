"""Q4_0: blocks of 32 weights, w = d * (q - 8), q 4 bits.

In the file (ggml-common.h, block_q4_0): d f16, qs[16]: byte i holds weight i in its low half and 16 + i in its
high half.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Codes, Format, Part, nibbles

_BLOCK = np.dtype([("d", "V2"), ("qs", "u1", 16)])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    return nibbles(blocks["qs"]).reshape(len(raw), -1), np.ascontiguousarray(blocks["d"]).view(np.uint8)


_CODES = Codes(32, _split, tuple(range(-8, 8)))
FORMAT = Format("Q4_0", 32, (Part(18, 32),), _CODES.dequantize, ggml_type=2, codes=_CODES)
