"""Q5_K: superblocks of 256 weights in 8 blocks of 32, w = (d * sc) * q - (dmin * m), q 5 bits, sc and m 6 bits.

In the file (ggml-common.h, block_q5_K): d f16, dmin f16, scales[12], qh[32], qs[128]. scales and qs are Q4_K's; bit j
of byte i of qh is the fifth bit of weight i of block j.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part

_BLOCK = np.dtype(
    [
        ("d", "<f2"),
        ("dmin", "<f2"),
        ("sc", "u1", 4),
        ("m", "u1", 4),
        ("low", "u1", 4),
        ("qh", "u1", 32),
        ("qs", "u1", 128),
    ]
)


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    qs = blocks["qs"].reshape(*blocks.shape, 4, 32)
    low = np.stack([qs & 15, qs >> 4], axis=-2).reshape(*blocks.shape, 8, 32)
    high = blocks["qh"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    q = (low | high << 4).astype(np.float32)
    sc, m, rest = blocks["sc"], blocks["m"], blocks["low"]
    scales = np.concatenate([sc & 63, rest & 15 | sc >> 6 << 4], axis=-1).astype(np.float32)
    minima = np.concatenate([m & 63, rest >> 4 | m >> 6 << 4], axis=-1).astype(np.float32)
    d, dmin = (blocks[name].astype(np.float32)[..., None] for name in ("d", "dmin"))
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (d * scales)[..., None] * q - (dmin * minima)[..., None]
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q5_K", 256, (Part(176, 256),), _dequantize, ggml_type=13)
