"""MXFP4_TENSORS: e2m1 codes and the exponent of a power of two per 32 of them, in two tensors; w = 2^(e - 127) * e2m1.

A byte of codes holds neighbours, the first in its low half. compressed-tensors (mxfp4-pack-quantized): `weight_packed`
and `weight_scale`; ModelOpt: `weight` and `weight_scale`.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, Bytes, Floats, Format, Part

_BLOCK = 32


def _dequantize(raw: Bytes) -> Floats:
    cols = FORMAT.cols(raw.shape[1])
    codes = np.stack([raw[:, : cols // 2] & 15, raw[:, : cols // 2] >> 4], axis=-1).reshape(len(raw), -1)
    steps = np.repeat(np.ldexp(np.float32(1), raw[:, cols // 2 :].astype(np.int32) - 128), _BLOCK, axis=1)
    with np.errstate(over="ignore"):  # a file may hold the largest power; its weights are the file's values
        weights: Floats = steps * np.array(E2M1, np.float32)[codes]
    return weights


FORMAT = Format("MXFP4_TENSORS", _BLOCK, (Part(1, 2), Part(1, _BLOCK)), _dequantize, of=("U8", "U8"))
