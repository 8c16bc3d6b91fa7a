"""NVFP4: blocks of 64 weights, a scale per 16, w = s / 2 * values[q], q 4 bits: twice an e2m1, as in MXFP4; s an e4m3.

In the file (ggml-common.h, block_nvfp4): s uint8[4], of which bit 7 means nothing and 0x7f is 0; qs[32]: group g has
bytes 8g to 8g + 7, byte i of them weight i in its low half and 8 + i in its high half. A factor for the whole tensor
is a tensor of its own.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, Bytes, Floats, Format, Part, nibbles

_BLOCK = np.dtype([("s", "u1", 4), ("qs", "u1", (4, 8))])
_E4M3 = np.array([(code & 7) + 8 * (code > 7) for code in range(128)], np.float32) * np.exp2(
    np.maximum(np.arange(128) >> 3, 1) - 10
).astype(np.float32)


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    scales = np.where(blocks["s"] == 0x7F, np.float32(0), _E4M3[blocks["s"] & 0x7F] / 2)
    weights: Floats = scales[..., None] * np.array(E2M1, np.float32)[nibbles(blocks["qs"])]
    return weights.reshape(len(raw), -1)


FORMAT = Format("NVFP4", 64, (Part(36, 64),), _dequantize, ggml_type=40)
