"""Q2_K: superblocks of 256 weights, a scale and a minimum per 16, w = (d * s) * q - (dmin * m), q 2 bits.

In the file (ggml-common.h, block_q2_K): scales[16], qs[64], d f16, dmin f16. Byte j of scales has s_j, 4 bits, in its
low half and m_j in its high half; codes lie as the low two bits of Q3_K.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, two_bits

_BLOCK = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    q = two_bits(blocks["qs"]).reshape(*blocks.shape, 16, 16).astype(np.float32)
    d, dmin = (blocks[name].astype(np.float32)[..., None] for name in ("d", "dmin"))
    scales, minima = ((blocks["scales"] >> shift & 15).astype(np.float32) for shift in (0, 4))
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (d * scales)[..., None] * q - (dmin * minima)[..., None]
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q2_K", 256, (Part(84, 256),), _dequantize, ggml_type=10)
