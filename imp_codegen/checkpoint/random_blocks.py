"""Random blocks of every format, with a given standard deviation and a mean of zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import E4M3, Bytes, Format

_BLOCKS = 262139  # of a pool: prime, and above the rows of any vocabulary
_WEIGHTS = 4194301  # prime; for formats whose block is one weight
_SAMPLE = 4096  # blocks that say how far weights spread


@dataclass(frozen=True, slots=True)
class _Scales:
    """Where a block has its float16 scale `d`.

    `minimum`: where the float16 is that is added, or subtracted, and how many steps of d it must be for a mean of zero.
    `alike` makes the scales of blocks within a block and those of their minima the same, for that. `scattered`: d is
    the upper nibbles of four uint16, the lowest first.
    """

    d: int
    minimum: tuple[int, float] | None = None
    alike: Callable[[Bytes], None] | None = None
    scattered: bool = False


def _alike_k(blocks: Bytes) -> None:
    """Q4_K's and Q5_K's twelve bytes at 4."""
    blocks[:, 8:12] = blocks[:, 4:8]
    blocks[:, 12:16] = (blocks[:, 12:16] & 15) * 17


def _alike_q2_k(blocks: Bytes) -> None:
    blocks[:, :16] = (blocks[:, :16] & 15) * 17


# Where scales are bytes, the larger the byte the larger the scale.
_BYTES: Mapping[str, tuple[int, ...]] = {"MXFP4": (0,), "NVFP4": (0, 1, 2, 3)}

_SCALES: Mapping[str, _Scales] = {
    "Q8_0": _Scales(0),
    "IQ4_NL": _Scales(0),
    "IQ4_XS": _Scales(0),
    "Q2_K": _Scales(80, (82, 1.5), _alike_q2_k),
    "Q3_K": _Scales(108),
    "Q6_K": _Scales(208),
    "Q5_K": _Scales(0, (2, 15.5), _alike_k),
    "Q5_1": _Scales(0, (2, -15.5)),
    "Q5_0": _Scales(0),
    "Q4_K": _Scales(0, (2, 7.5), _alike_k),
    "Q4_1": _Scales(0, (2, -7.5)),
    "Q4_0": _Scales(0),
    **dict.fromkeys(("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S"), _Scales(0)),
    "IQ1_M": _Scales(48, scattered=True),
    "TQ2_0": _Scales(64),
    "TQ1_0": _Scales(52),
}


def can_be_random(fmt: Format) -> bool:
    """Whether it is known what makes weights of a sensible size."""
    floats = ("F32", "F16", "BF16", "F8_E4M3", "FP8_BLOCKS", "FP8_ROWS")
    return fmt.name in floats or fmt.name in _SCALES or fmt.name in _BYTES


def random_blocks(fmt: Format, rng: np.random.Generator, deviation: float) -> Bytes:
    """A pool of blocks one after the other, uint8[bytes]."""
    if fmt.block == 1:
        values = rng.standard_normal(_WEIGHTS, np.float32) * np.float32(deviation)
        if fmt.name == "F8_E4M3":
            return _nearest_e4m3(values)
        halves = {"F16": values.astype("<f2"), "BF16": (values.view("<u4") >> 16).astype("<u2")}
        return halves.get(fmt.name, values).view(np.uint8)
    blocks = rng.integers(0, 256, (_BLOCKS, fmt.block_bytes), np.uint8)
    if fmt.name in _BYTES:
        blocks[:, _BYTES[fmt.name]] = _bytes(fmt, blocks[:_SAMPLE].copy(), rng, deviation)
        return blocks.reshape(-1)
    scales = _SCALES[fmt.name]
    if scales.alike:
        scales.alike(blocks)
    signs = np.where(np.arange(_BLOCKS) % 2, -1.0, 1.0)  # since codes go further down than up
    _set(blocks, scales, signs)
    _set(blocks, scales, signs * (deviation / float(fmt.dequantize(blocks[:_SAMPLE]).std())))
    return blocks.reshape(-1)


def _bytes(fmt: Format, sample: Bytes, rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    """Scales of one byte, two neighbours mixed so that the variance is right: uint8[blocks, scales of a block]."""

    def variance(scale: int) -> float:
        sample[:, _BYTES[fmt.name]] = scale
        return float(np.square(fmt.dequantize(sample), dtype=np.float64).mean())

    above = next(scale for scale in range(1, 127) if variance(scale) > deviation**2)
    low, high = variance(above - 1), variance(above)
    share = (deviation**2 - low) / (high - low)
    more = rng.random((_BLOCKS, len(_BYTES[fmt.name]))) < share
    return np.where(more, above, above - 1).astype(np.uint8)


def _nearest_e4m3(values: NDArray[np.float32]) -> Bytes:
    """The code next to each value, all of which lie within -448 and 448."""
    positive = E4M3[:0x7F]
    codes = np.searchsorted((positive[1:] + positive[:-1]) / 2, np.abs(values)).astype(np.uint8)
    codes[np.signbit(values)] |= 0x80
    return codes


def _set(blocks: Bytes, scales: _Scales, steps: NDArray[np.float64]) -> None:
    halves = _halves(steps)
    if scales.scattered:
        nibbles = np.stack([halves & 15, halves >> 4], axis=-1).reshape(len(blocks), 4)
        upper = blocks[:, scales.d + 1 : scales.d + 8 : 2]
        upper[:] = upper & 15 | nibbles << 4
        return
    blocks[:, scales.d : scales.d + 2] = halves
    if scales.minimum:
        at, count = scales.minimum
        blocks[:, at : at + 2] = _halves(steps * count)


def _halves(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return values.astype("<f2")[:, None].view(np.uint8)
