"""nvfp4: e2m1 codes, a scale in e4m3 per 16 of them, and a float32 factor for each row.

Published checkpoints have a factor for a whole matrix. Here each row has its own: the device's layout stores it once a
row anyway, rows can be rounded as they are read, and a row of small weights keeps scales that are normal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imp_codegen.formats import E2M1, E4M3, Bytes, Floats
from imp_codegen.rounding import Rounding
from imp_codegen.rounding._scales import SMALLEST, Grid, blocks_of, least_error

_PER = 16
_GRID = Grid(1, 1.0, 6.0)
_TOP = np.float32(256)
"""The scale of a row's largest weight where that becomes a 6: up to 448 there is room for it to become a 4."""
_MIDDLES = (E4M3[:126] + E4M3[1:127]) / 2
_AROUND = range(-2, 8)
"""Codes of scales that are tried around the one that makes a block's largest weight a 6: on random weights the best of
all 126 is always among them. Some code lies at a 4, which is better for about a third of the blocks."""
_CODES = np.zeros(13, np.uint8)
_CODES[np.array(E2M1[:8])] = np.arange(8)


def _round(weights: Floats) -> Bytes:
    rows, cols = weights.shape
    sizes = blocks_of(weights, _PER)
    peaks = sizes.max(axis=0)
    factors = np.maximum(peaks.reshape(rows, -1).max(axis=1) / (6 * _TOP), SMALLEST)
    each = np.repeat(factors, cols // _PER)
    sizes /= each
    usual = np.searchsorted(_MIDDLES, peaks / each / np.float32(6))
    tried = [np.clip(usual + step, 1, 126) for step in _AROUND]
    best, scales = least_error(sizes, _GRID, _values(tried))
    stored = np.where(best < 0, 0, np.choose(np.maximum(best, 0), tried)).astype(np.uint8)
    values = _GRID.nearest(sizes * np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0))
    codes = _CODES[(values * 2).astype(np.uint8)].T.reshape(rows, cols)
    codes |= (np.signbit(weights) & (codes > 0)).astype(np.uint8) << 3
    packed = codes[:, ::2] | codes[:, 1::2] << 4
    return np.concatenate([packed, stored.reshape(rows, -1), factors[:, None].view(np.uint8)], axis=1)


def _values(tried: list[np.ndarray]) -> Iterator[Floats]:
    return (E4M3[codes] for codes in tried)


ROUNDING = Rounding("nvfp4", "NVFP4_TENSORS", _PER, _round, again=("Q8_0", "Q6_K"))
