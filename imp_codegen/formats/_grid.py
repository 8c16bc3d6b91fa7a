"""Signs and scales of the IQ formats, whose weights are points of grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats


def whole_signs(seven: NDArray[np.integer]) -> Bytes:
    """Eight signs of seven bits, as an even number of eight are negative: uint8 of the same shape."""
    signs = (seven & 127).astype(np.uint8)
    whole: Bytes = signs | (np.bitwise_count(signs) & np.uint8(1)) << np.uint8(7)
    return whole


def signed(numbers: Floats, signs: Bytes) -> Floats:
    """Float32[..., 8 n] with the bits of uint8[..., n] as signs."""
    bits = np.unpackbits(signs, axis=-1, bitorder="little")
    return np.where(bits, -numbers, numbers)


def weigh(d: NDArray[np.float16], scales: NDArray[np.integer], step: float, numbers: Floats) -> Floats:
    """d[...] times 2 s + 1 of scales[..., n] times `step` times numbers float32[..., m], exact: float32[..., m]."""
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = d.astype(np.float32)[..., None] * ((2 * scales.astype(np.float32) + 1) * np.float32(step))
        weights: Floats = steps[..., None] * numbers.reshape(*scales.shape, -1)
    return weights.reshape(numbers.shape)
