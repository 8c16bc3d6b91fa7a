"""The products of FP8 weights and activations that are halfs, in numpy, each operation rounded as kernels round it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import E4M3, Format
from imp_codegen.layouts import layouts

Array = NDArray[Any]


def half_products(fmt: Format, stored: Array, x: Array) -> Array:
    """float64[rows]: rows of an FP8 format, uint8[rows, row bytes], times float32[cols].

    Activations become halfs with a scale per 128, the largest of these 8. Of 16 weights the even and the odd ones are
    a sum of eight products each, every step of it a half; all else is as good as exact.
    """
    cols = x.size
    codes, scales = layouts()["FP8"].split(fmt, stored)
    factors = np.repeat(np.ascontiguousarray(scales).view("<f4"), 128, axis=1)[:, :cols].astype(np.float64)
    peaks = np.repeat([np.abs(x[at : at + 128]).max() for at in range(0, cols, 128)], 128)[:cols].astype(np.float32)
    halfs = (x * (np.float32(8) / peaks)).astype(np.float16).reshape(-1, 8, 2)
    weights = E4M3[codes].reshape(len(codes), -1, 8, 2).astype(np.float64)
    sums = np.zeros((len(codes), cols // 16, 2), np.float16)
    for i in range(8):
        sums = (weights[:, :, i] * halfs[:, i].astype(np.float64) + sums).astype(np.float16)
    products: Array = (sums.astype(np.float64).sum(axis=2) * factors[:, ::16] * (peaks[::16] / 8)).sum(axis=1)
    return products
