"""Q5_0: blocks of 32 weights, w = d * (q - 16), q 5 bits.

In the file (ggml-common.h, block_q5_0): d f16, qh u32, qs[16]: byte i of qs holds the low four bits of weight i in its
low half and of 16 + i in its high half; bit i of qh is the fifth bit of weight i.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Codes, Format, Part, bits, nibbles

_BLOCK = np.dtype([("d", "V2"), ("qh", "u1", 4), ("qs", "u1", 16)])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    codes = nibbles(blocks["qs"]) | bits(blocks["qh"]) * np.uint8(16)
    return codes.reshape(len(raw), -1), np.ascontiguousarray(blocks["d"]).view(np.uint8)


_CODES = Codes(32, _split, tuple(range(-16, 16)))
FORMAT = Format("Q5_0", 32, (Part(22, 32),), _CODES.dequantize, ggml_type=6, codes=_CODES)
