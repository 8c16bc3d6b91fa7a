"""The search for a block's scale: of several, the one with the least squared error.

A block is a column of float32[per, blocks], so that sums over blocks are sums of rows. Time is passes over all weights,
0.1 to 0.3 ns a weight each: what can be done once for a block is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats

SMALLEST = np.float32(2.0**-126)
"""Of normal numbers: no scale is below it, so that quotients are finite."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers of a floating format, without signs: `mantissa` bits, normal from `normal` on, at most `most`."""

    mantissa: int
    normal: float
    most: float

    def nearest(self, sizes: Floats, room: Floats, out: Floats) -> Floats:
        """The nearest of them to each of `sizes`, none of which is above `most`. `room` is for as many.

        Veltkamp's splitting: c - (c - x) keeps of x the bits that c = (2^k + 1) x leaves. With a c that falls no lower
        than for the smallest normal number, it keeps multiples of that one's step below it.
        """
        factor = np.float32(2 ** (23 - self.mantissa) + 1)
        np.multiply(sizes, factor, out=room)
        np.maximum(room, np.float32(self.normal) * factor, out=room)
        np.subtract(room, sizes, out=out)
        return np.subtract(room, out, out=out)

    def codes(self, numbers: Floats) -> Bytes:
        """The codes of such numbers, from 0 on: up to the first normal one steps, then bits that follow one another."""
        normal, shift = np.float32(self.normal), np.uint32(23 - self.mantissa)
        steps = np.minimum(numbers, normal) * np.float32(2**self.mantissa / self.normal)
        bits = np.maximum(numbers, normal).view(np.uint32) - normal.view(np.uint32)
        codes: Bytes = steps.astype(np.uint8) + (bits >> shift).astype(np.uint8)
        return codes


def blocks_of(weights: Floats, per: int) -> Floats:
    """The sizes of weights[n, cols], a column for each block of `per`: float32[per, n * cols / per]."""
    return np.ascontiguousarray(np.abs(weights).reshape(-1, per).T)


def _total(values: Floats) -> Floats:
    """Of each column, of whose elements there are a power of two, written over them.

    In one order, which numpy's own sum has not.
    """
    while len(values) > 1:
        half = len(values) // 2
        values = np.add(values[:half], values[half:], out=values[:half])
    total: Floats = values[0]
    return total


def least_error(sizes: Floats, grid: Grid, candidates: Iterable[Floats]) -> NDArray[np.int8]:
    """Which of the candidates is best for each block: numbers int8[blocks].

    A candidate is a scale for each block, float32[blocks], or one for all, float32[1]. Of equals it is the first. A
    scale of zero, which stands for a block of zeros, is number -1, and first of all.
    """
    quotients, found, room = np.empty_like(sizes), np.empty_like(sizes), np.empty_like(sizes)
    peaks, least = sizes.max(axis=0), _total(np.multiply(sizes, sizes, out=found)).copy()
    best = np.zeros(sizes.shape[1], np.int8)  # counted from 1
    for number, scales in enumerate(candidates, 1):
        np.multiply(sizes, np.float32(1) / scales, out=quotients)
        above = (peaks > scales * np.float32(grid.most)).any()
        grid.nearest(np.minimum(quotients, np.float32(grid.most), out=found) if above else quotients, room, found)
        found -= quotients
        found *= found
        error = _total(found) * (scales * scales)
        np.maximum(best, (error < least).view(np.int8) * np.int8(number), out=best)
        np.minimum(least, error, out=least)
    best -= np.int8(1)
    return best
