"""MXFP4: blocks of 32 weights, w = 2^(e - 128) * values[q], q 4 bits: twice an e2m1, so that values are whole numbers.

In the file (ggml-common.h, block_mxfp4; OCP Microscaling Formats v1.0): e uint8, qs[16] as in Q4_0. Here e = 255 is
no NaN.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, Bytes, Floats, Format, Part, nibbles

_BLOCK = np.dtype([("e", "u1"), ("qs", "u1", 16)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    steps = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    with np.errstate(over="ignore"):  # a file may hold the largest power; its weights are the file's values
        weights: Floats = steps[..., None] * np.array(E2M1, np.float32)[nibbles(blocks["qs"])]
    return weights.reshape(len(raw), -1)


FORMAT = Format("MXFP4", 32, (Part(17, 32),), _dequantize, ggml_type=39)
