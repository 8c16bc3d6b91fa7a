"""Q5_1: blocks of 32 weights, w = d * q + m, q 5 bits.

In the file (ggml-common.h, block_q5_1): d f16, m f16, qh u32, qs[16], the latter two as in Q5_0.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, bits, nibbles

_BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    codes = nibbles(blocks["qs"]) | bits(blocks["qh"]) * np.uint8(16)
    d, m = (blocks[name].astype(np.float32)[..., None] for name in ("d", "m"))
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = d * codes.astype(np.float32) + m
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q5_1", 32, (Part(24, 32),), _dequantize, ggml_type=7)
