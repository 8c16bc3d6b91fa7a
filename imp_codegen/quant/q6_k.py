"""Q6_K: superblocks of 256 weights, a scale per 16, w = (d * sc) * (q - 32), q 6 bits, sc int8.

In the file (ggml-common.h, block_q6_K): ql[128], qh[64], scales int8[16], d f16. Half h = 0, 1 of the superblock has
four blocks of 32 weights; weight i of its block k takes its low four bits from byte 64h + 32(k % 2) + i of ql (the low
half of the byte for k < 2) and its top two from bits 2k, 2k+1 of byte 32h + i of qh.

Packed: low codes, 16 bytes per block, byte i = low(q[i]) | low(q[16+i]) << 4; high codes, two u32 h0, h1 per block:
byte i of h0 holds in bits 2j, 2j+1 the top bits of q[4j+i], h1 those of q[16+4j+i]; all scales of a row; all d.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.quant import Bytes, Floats, QuantFormat, Section

_BLOCK = np.dtype([("ql", "V128"), ("qh", "V64"), ("scales", "V16"), ("d", "V2")])
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)


def _low_codes(ql: Bytes) -> Bytes:
    words = ql.view("<u8").reshape(-1, 2, 2, 2)  # half of the superblock, k % 2, half of the block, word
    first, second = words[:, :, 0], words[:, :, 1]
    codes = np.empty((len(words), 2, 2, 2), "<u8")  # half of the superblock, k // 2, k % 2, word
    codes[:, 0] = (first & _LOW) | (second & _LOW) << np.uint64(4)
    codes[:, 1] = (first >> np.uint64(4)) & _LOW | (second & ~_LOW)
    return codes.reshape(-1).view(np.uint8)


def _high_codes(qh: Bytes) -> Bytes:
    """Transpose 4 x 4 fields of two bits: word j, field k of the file becomes word k, field j."""
    words = qh.view("<u4").reshape(-1, 2, 4)  # half of the superblock, half of the block, word j
    w0, w1, w2, w3 = (words[:, :, j] for j in range(4))
    swap = ((w0 >> 4) ^ w2) & 0x0F0F0F0F
    w0, w2 = w0 ^ swap << 4, w2 ^ swap
    swap = ((w1 >> 4) ^ w3) & 0x0F0F0F0F
    w1, w3 = w1 ^ swap << 4, w3 ^ swap
    codes = np.empty((len(words), 4, 2), "<u4")  # half of the superblock, block k, half of the block
    swap = ((w0 >> 2) ^ w1) & 0x33333333
    codes[:, 0], codes[:, 1] = w0 ^ swap << 2, w1 ^ swap
    swap = ((w2 >> 2) ^ w3) & 0x33333333
    codes[:, 2], codes[:, 3] = w2 ^ swap << 2, w3 ^ swap
    return codes.reshape(-1).view(np.uint8)


def _split(raw: Bytes) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    ql, qh, scales, d = (
        np.ascontiguousarray(blocks[field]).reshape(-1).view(np.uint8) for field in ("ql", "qh", "scales", "d")
    )
    return (
        _low_codes(ql).reshape(rows, -1),
        _high_codes(qh).reshape(rows, -1),
        scales.reshape(rows, -1),
        d.reshape(rows, -1),
    )


def _decode(low: Bytes, high: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(low)
    nibbles = low.reshape(rows, -1, 16)
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)  # rows, block, weight
    words = high.reshape(rows, -1, 2, 1, 4)  # rows, block, half, 1, byte i
    top = words >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3  # rows, block, half, j, i
    q = (codes | top.reshape(codes.shape) << 4).astype(np.float32) - np.float32(32)
    sc = np.ascontiguousarray(scales).view(np.int8).reshape(rows, -1, 16).astype(np.float32)
    factor = np.ascontiguousarray(d).view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        step = (factor[:, :, None] * sc).reshape(rows, -1, 1)
        weights: Floats = (step * q.reshape(rows, -1, 16)).reshape(rows, -1)
    return weights


def _dequantize(raw: Bytes) -> Floats:
    return _decode(*_split(np.ascontiguousarray(raw)))


FORMAT = QuantFormat(
    name="Q6_K",
    ggml_type=14,
    block=256,
    block_bytes=210,
    activation="q8",
    layout="Q6_K",
    tile_weights=4096,
    prefill_planes=2,
    sections=(Section(16, 32), Section(8, 32), Section(1, 16), Section(2, 256)),
    split=_split,
    decode=_decode,
    dequantize=_dequantize,
)
