"""Q4_1: blocks of 32 weights, w = d * q + m, q 4 bits.

In the file (ggml-common.h, block_q4_1): d f16, m f16, qs[16] as in Q4_0.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, nibbles

_BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    d, m = (blocks[name].astype(np.float32)[..., None] for name in ("d", "m"))
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = d * nibbles(blocks["qs"]).astype(np.float32) + m
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q4_1", 32, (Part(20, 32),), _dequantize, ggml_type=3)
