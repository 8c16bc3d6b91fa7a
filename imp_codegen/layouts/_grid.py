"""Points of grids as words: how the layouts of the IQ formats have signs, and codes of nine to eleven bits.

Signs of a block of 32, a u32: the g-th eight have bit g of each nibble. Of points of eight the n-th weight's are nibble
n, of points of four nibble 2 j + h is the sign of weight 4 h + j: so one instruction makes a mask of bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Bytes, Floats

Words = NDArray[np.uint32]

BY_FOUR = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibbles of eight weights that are two points of four."""
BY_EIGHT = tuple(range(8))


def spread(signs: NDArray[np.integer], nibbles: tuple[int, ...]) -> Words:
    """Eight signs each, [..., 4], or the lower seven of them: uint32[...]."""
    each = np.arange(256, dtype=np.uint32)
    table = np.zeros(256, np.uint32)
    for weight, nibble in enumerate(nibbles):
        table |= (each >> weight & 1) << 4 * nibble
    word = table[signs]
    words: Words = word[..., 0] | word[..., 1] << 1 | word[..., 2] << 2 | word[..., 3] << 3
    return words


def turned(words: Words, nibbles: tuple[int, ...], even: bool) -> Floats:
    """The signs of uint32[...] as float32[..., 4, 8]: 1, or -1. `even`: nibble 7 has something else."""
    order = 4 * np.array(nibbles, np.uint32) + np.arange(4, dtype=np.uint32)[:, None]
    bits = words[..., None, None] >> order & 1
    if even:
        bits[..., 7] = bits[..., :7].sum(axis=-1) & 1
    return 1 - 2 * bits.astype(np.float32)


def iq1_words(codes: NDArray[np.integer]) -> tuple[Words, NDArray[np.uint16]]:
    """Four codes of eleven bits, [..., 4], as uint32[...] and the lower twelve bits of uint16[...]."""
    a, b, c, d = np.moveaxis(codes.astype(np.uint32), -1, 0)
    return a | b << 11 | c << 22, (d | c >> 10 << 11).astype(np.uint16)


def iq1_codes(first: Bytes, rest: NDArray[np.uint16]) -> Words:
    """The codes again, uint32[..., 4]."""
    word = np.ascontiguousarray(first).view("<u4")
    third = word >> 22 | (rest >> 11 & 1).astype(np.uint32) << 10
    return np.stack([word & 2047, word >> 11 & 2047, third, (rest & 2047).astype(np.uint32)], axis=-1)


def odd_scale(numbers: NDArray[np.integer], step: float) -> Floats:
    """2 s + 1, times `step`."""
    return (2 * numbers.astype(np.float32) + 1) * np.float32(step)


def weigh(d: Bytes, scales: Floats, numbers: Floats) -> Floats:
    """uint8[n, 2 superblocks] as float16, times scales[n, blocks, m], times numbers: float32[n, cols]."""
    factors = np.ascontiguousarray(d).view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = np.repeat(factors, 8, axis=1)[..., None] * scales
        weights: Floats = steps[..., None] * numbers.reshape(*scales.shape, -1)
    return weights.reshape(len(d), -1)


def as_bytes(words: NDArray[np.generic], rows: int) -> Bytes:
    """The bytes of numbers, those of a row in a row: uint8[rows, ...]."""
    return np.ascontiguousarray(words).reshape(rows, -1).view(np.uint8)
