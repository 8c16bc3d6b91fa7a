"""IQ4_XS: superblocks of 256 weights in 8 blocks of 32, w = (d * (s - 32)) * values[q], q 4 bits, s 6 bits.

In the file (ggml-common.h, block_iq4_xs): d f16, high u16, low[4], qs[128]. Block j has its s in nibble j of low and,
above, in bits 2j, 2j+1 of high; its codes are 16 bytes as in Q4_0, its values IQ4_NL's.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import IQ4, Bytes, Floats, Format, Part, nibbles

_BLOCK = np.dtype([("d", "<f2"), ("high", "<u2"), ("low", "u1", 4), ("qs", "u1", (8, 16))])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    high = blocks["high"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([blocks["low"] & 15, blocks["low"] >> 4], axis=-1).reshape(*blocks.shape, 8)
    scales = (low | high << 4).astype(np.float32) - np.float32(32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = blocks["d"].astype(np.float32)[..., None] * scales
        weights: Floats = steps[..., None] * np.array(IQ4, np.float32)[nibbles(blocks["qs"])]
    return weights.reshape(len(raw), -1)


FORMAT = Format("IQ4_XS", 256, (Part(136, 256),), _dequantize, ggml_type=23)
