"""Q6_K: superblocks of 256 weights, a scale per 16, w = (d * sc) * (q - 32), q 6 bits, sc int8.

In the file (ggml-common.h, block_q6_K): ql[128], qh[64], scales int8[16], d f16. Half h = 0, 1 of the superblock has
four blocks of 32 weights; weight i of its block k takes its low four bits from byte 64h + 32(k % 2) + i of ql (the low
half of the byte for k < 2) and its top two from bits 2k, 2k+1 of byte 32h + i of qh.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part

_BLOCK = np.dtype([("ql", "u1", (2, 2, 32)), ("qh", "u1", (2, 32)), ("scales", "i1", 16), ("d", "<f2")])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    ql, qh = blocks["ql"], blocks["qh"]
    codes = [(ql[..., k % 2, :] >> 4 * (k // 2)) & 15 | (qh >> 2 * k & 3) << 4 for k in range(4)]
    q = np.stack(codes, axis=-2).reshape(*blocks.shape, 16, 16).astype(np.float32) - np.float32(32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = blocks["d"].astype(np.float32)[..., None] * blocks["scales"].astype(np.float32)
        weights: Floats = steps[..., None] * q
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q6_K", 256, (Part(210, 256),), _dequantize, ggml_type=14)
