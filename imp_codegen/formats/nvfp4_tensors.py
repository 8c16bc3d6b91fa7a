"""NVFP4_TENSORS: codes in e2m1, a scale in e4m3 per 16 of them, and a float32 factor: w = factor * s * e2m1.

A byte of codes holds neighbours, the first in its low half. ModelOpt: `weight`, `weight_scale`, `weight_scale_2`;
compressed-tensors (nvfp4-pack-quantized): `weight_packed`, `weight_scale`, and the divisor `weight_global_scale`.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, E4M3, Bytes, Floats, Format, Part

_BLOCK = 16


def _dequantize(raw: Bytes) -> Floats:
    cols = FORMAT.cols(raw.shape[1])
    codes = np.stack([raw[:, : cols // 2] & 15, raw[:, : cols // 2] >> 4], axis=-1).reshape(len(raw), -1)
    scales = np.repeat(E4M3[raw[:, cols // 2 : -4]] / 2, _BLOCK, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any factor; its weights are the file's values
        weights: Floats = scales * np.array(E2M1, np.float32)[codes] * np.ascontiguousarray(raw[:, -4:]).view("<f4")
    return weights


FORMAT = Format(
    "NVFP4_TENSORS",
    _BLOCK,
    (Part(1, 2), Part(1, _BLOCK), Part(4, 0)),
    _dequantize,
    of=("U8", "U8", "F32"),
)
