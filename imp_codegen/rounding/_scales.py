"""The search for a block's scale: of several, the one with the least squared error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Floats

SMALLEST = np.float32(2.0**-126)
"""Of normal numbers: no scale is below it, so that quotients are finite."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers of a floating format, without signs: `mantissa` bits, normal from `normal` on, at most `most`."""

    mantissa: int
    normal: float
    most: float

    def nearest(self, sizes: Floats, spare: Floats | None = None) -> Floats:
        """The nearest of them to each, ties to even, written over `sizes`; `spare` is room for as many.

        A float32 to which 1.5 * 2^23 steps are added has no bits below the step left; the step follows the exponent.
        """
        shift = np.empty_like(sizes) if spare is None else spare
        np.minimum(sizes, np.float32(self.most), out=sizes)
        np.bitwise_and(sizes.view(np.uint32), np.uint32(0x7F800000), out=shift.view(np.uint32))
        np.maximum(shift, np.float32(self.normal), out=shift)
        shift *= np.float32(1.5 * 2.0 ** (23 - self.mantissa))
        sizes += shift
        sizes -= shift
        return sizes


def blocks_of(weights: Floats, per: int) -> Floats:
    """The sizes of weights[n, cols], a column for each block of `per`: float32[per, n * cols / per]."""
    return np.ascontiguousarray(np.abs(weights).reshape(-1, per).T)


def _total(values: Floats) -> Floats:
    """Of each column, of whose elements there are a power of two. In one order, which numpy's own sum has not."""
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half:]
    total: Floats = values[0]
    return total


def least_error(sizes: Floats, grid: Grid, candidates: Iterable[Floats]) -> tuple[NDArray[np.intp], Floats]:
    """Which of the candidates, a scale for each block float32[blocks], is best for each; and the scales.

    Of equals it is the first. A scale of zero, which stands for a block of zeros, is number -1, and first of all.
    """
    best = np.full(sizes.shape[1], -1, np.intp)
    scales = np.zeros(sizes.shape[1], np.float32)
    least = _total(sizes * sizes)
    error, spare = np.empty_like(sizes), np.empty_like(sizes)
    for number, scale in enumerate(candidates):
        np.multiply(sizes, np.float32(1) / scale, out=error)
        grid.nearest(error, spare)
        error *= scale
        error -= sizes
        error *= error
        found = _total(error)
        better = found < least
        best[better], scales[better], least[better] = number, scale[better], found[better]
    return best, scales
