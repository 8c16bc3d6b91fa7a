"""nvfp4: e2m1 codes, a scale in e4m3 per 16 of them, and a float32 factor for each row.

Published checkpoints have a factor for a whole matrix. Here each row has its own: the device's layout stores it once a
row anyway, rows can be rounded as they are read, and a row of small weights keeps scales that are normal numbers.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E4M3, Bytes, Floats
from imp_codegen.rounding import Rounding
from imp_codegen.rounding._scales import SMALLEST, Grid, blocks_of, least_error

_PER = 16
_GRID, _SCALES = Grid(1, 1.0, 6.0), Grid(3, 2.0**-6, 448.0)
_TOP = np.float32(256)
"""The scale of a row's largest weight where that becomes a 6: up to 448 there is room for it to become a 4."""
_TRIED = np.clip(np.arange(127) + np.arange(-2, 8)[:, None], 1, 126).astype(np.uint8)
"""Codes of scales that are tried, by the one that makes a block's largest weight a 6: on random weights the best of all
126 is always among them. Some code lies at a 4, which is better for about a third of the blocks."""


def _round(weights: Floats) -> Bytes:
    rows, cols = weights.shape
    sizes = blocks_of(weights, _PER)
    peaks = sizes.max(axis=0)
    factors = np.maximum(peaks.reshape(rows, -1).max(axis=1) / (6 * _TOP), SMALLEST)
    each = np.repeat(factors, cols // _PER)
    sizes /= each
    sixes = peaks / each / np.float32(6)
    usual = _SCALES.codes(_SCALES.nearest(sixes, np.empty_like(sixes), sixes))
    best = least_error(sizes, _GRID, (E4M3[codes][usual] for codes in _TRIED))
    stored = np.where(best < 0, np.uint8(0), _TRIED[best, usual])
    scales = E4M3[stored]
    sizes *= np.divide(1, scales, out=np.zeros_like(scales), where=stored > 0)
    np.minimum(sizes, np.float32(_GRID.most), out=sizes)
    codes = _GRID.codes(_GRID.nearest(sizes, np.empty_like(sizes), sizes)).T.reshape(rows, cols)
    codes |= (np.signbit(weights) & (codes > 0)).view(np.uint8) << np.uint8(3)
    packed = codes[:, ::2] | codes[:, 1::2] << np.uint8(4)
    return np.concatenate([packed, stored.reshape(rows, -1), factors[:, None].view(np.uint8)], axis=1)


ROUNDING = Rounding("nvfp4", "NVFP4_TENSORS", _PER, _round, again=("Q8_0", "Q6_K"))
