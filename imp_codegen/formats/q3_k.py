"""Q3_K: superblocks of 256 weights, a scale per 16, w = (d * (s - 32)) * (q - 4), q 3 bits, s 6 bits.

In the file (ggml-common.h, block_q3_K): hmask[32], qs[64], scales[12], d f16. Half h = 0, 1 of the superblock has
four blocks of 32 weights; weight i of its block k takes its low two bits from bits 2k, 2k+1 of byte 32h + i of qs,
and its third is bit 4h + k of byte i of hmask. Scale j has its low four bits in byte j % 8 of scales, in the low half
for j < 8, and its top two in bits 2(j // 4), 2(j // 4) + 1 of byte 8 + j % 4.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, two_bits

_BLOCK = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("low", "u1", 8), ("high", "u1", 4), ("d", "<f2")])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    third = blocks["hmask"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = two_bits(blocks["qs"]) | third.reshape(*blocks.shape, 256) << 2
    low = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=-1)
    high = blocks["high"][..., None, :] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    scales = (low | high.reshape(*blocks.shape, 16) << 4).astype(np.float32) - np.float32(32)
    q = codes.reshape(*blocks.shape, 16, 16).astype(np.float32) - np.float32(4)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (blocks["d"].astype(np.float32)[..., None] * scales)[..., None] * q
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q3_K", 256, (Part(110, 256),), _dequantize, ggml_type=11)
