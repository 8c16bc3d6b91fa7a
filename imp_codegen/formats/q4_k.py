"""Q4_K: superblocks of 256 weights in 8 blocks of 32, w = (d * sc) * q - (dmin * m), q 4 bits, sc and m 6 bits.

In the file (ggml-common.h, block_q4_K): d f16, dmin f16, scales[12], qs[128].
- scales, j = 0..3: bytes j hold sc_j in bits 0-5 and the top two bits of sc_{4+j} above; bytes 4+j the same for m;
  bytes 8+j the low four bits of sc_{4+j} and, above them, of m_{4+j}.
- qs, c = 0..3: byte 32c+i holds weight i of block 2c in its low half and of block 2c+1 in its high half.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part

_BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("sc", "u1", 4), ("m", "u1", 4), ("low", "u1", 4), ("qs", "u1", 128)])


def _dequantize(raw: Bytes) -> Floats:
    blocks = np.ascontiguousarray(raw).view(_BLOCK)
    qs = blocks["qs"].reshape(*blocks.shape, 4, 32)
    q = np.stack([qs & 15, qs >> 4], axis=-2).reshape(*blocks.shape, 8, 32).astype(np.float32)
    sc, m, low = blocks["sc"], blocks["m"], blocks["low"]
    scales = np.concatenate([sc & 63, low & 15 | sc >> 6 << 4], axis=-1).astype(np.float32)
    minima = np.concatenate([m & 63, low >> 4 | m >> 6 << 4], axis=-1).astype(np.float32)
    d, dmin = (blocks[name].astype(np.float32)[..., None] for name in ("d", "dmin"))
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = (d * scales)[..., None] * q - (dmin * minima)[..., None]
    return weights.reshape(len(raw), -1)


FORMAT = Format("Q4_K", 256, (Part(144, 256),), _dequantize, ggml_type=12)
