"""fp8: e4m3 codes and a float32 scale for each 128 of a row.

Published checkpoints have a scale for 128 x 128 weights, or for a row. The device's layout has one for each 128 of a
row whatever the file has, so a scale of their own costs nothing. On normal weights the squared error is a quarter below
that of a row's scale: a fifth by the search, the rest by the blocks.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E4M3, Bytes, Floats
from imp_codegen.rounding import Rounding
from imp_codegen.rounding._scales import SMALLEST, Grid, blocks_of, least_error

_PER = 128
_GRID = Grid(3, 2.0**-6, 448.0)
_TOPS = E4M3[0x77:0x7F][::-1]
"""What a block's largest weight may become: the last octave of e4m3. Another octave has the same mantissas."""


def _round(weights: Floats) -> Bytes:
    rows, cols = weights.shape
    if short := -cols % _PER:  # of a row's last block; zeros change neither its scale nor its error
        weights = np.pad(weights, ((0, 0), (0, short)))
    sizes = blocks_of(weights, _PER)
    peaks = sizes.max(axis=0)
    best = least_error(sizes / np.maximum(peaks, SMALLEST), _GRID, np.float32(1) / _TOPS[:, None])
    scales = np.maximum(peaks / _TOPS[best], SMALLEST)
    sizes /= scales
    np.minimum(sizes, np.float32(_GRID.most), out=sizes)
    codes = _GRID.codes(_GRID.nearest(sizes, np.empty_like(sizes), sizes)).T.reshape(rows, -1)
    codes |= (np.signbit(weights) & (codes > 0)).view(np.uint8) << np.uint8(7)
    return np.concatenate([codes[:, :cols], scales.reshape(rows, -1).view(np.uint8)], axis=1)


ROUNDING = Rounding("fp8", "FP8_BLOCKS", 1, _round)
