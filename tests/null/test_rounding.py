"""What rounding makes of weights, beside what gguf-py rounds, and beside every scale and every code that there is."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from e4m3 import e4m3
from imp_codegen.formats import format_named
from imp_codegen.rounding import Rounding, rounding_named, roundings
from imp_runtime.errors import ImpError

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
POSITIVE = np.array([e4m3(code) for code in range(127)])


def weights(rows: int, cols: int) -> np.ndarray:
    """Of several distributions, sizes and signs."""
    rng = np.random.default_rng(7)
    kinds = (rng.standard_normal((rows, cols)), rng.laplace(size=(rows, cols)), rng.standard_t(3, (rows, cols)))
    chosen = np.choose(np.arange(rows)[:, None] % 3, kinds) * rng.choice([1e-4, 0.02, 30], (rows, 1))
    return chosen.astype(np.float32)


def nearest(values: np.ndarray, scales: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The product of a scale and one of some numbers above zero that is nearest to each, with the value's sign."""
    choice = np.abs(np.abs(values)[..., None] - scales[..., None] * numbers).argmin(axis=-1)
    found: np.ndarray = np.copysign(scales * numbers[choice], values)
    return found


def test_q8_0_is_ggmls_bit_for_bit() -> None:
    given = weights(60, 256)
    given[3] = 0
    given[4, :64] = np.arange(-32, 32) / 2  # halves, once the largest of a block is a 127
    given[4, [0, 63]] = 127
    given[5] *= 1e-9  # scales that are subnormal as float16, or zero
    expected = gguf.quantize(given, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(roundings()["q8_0"].round(given), expected)


def test_no_scale_of_nvfp4_has_a_smaller_error() -> None:
    given = weights(12, 128)
    given[1, 16:32] = 0
    given[2, 32:48] *= 1e-5  # below what the row's factor and the smallest scale leave
    raw = roundings()["nvfp4"].round(given)
    factors = raw[:, -4:].copy().view("<f4").astype(np.float64)
    found = format_named("NVFP4_TENSORS").dequantize(raw).astype(np.float64)
    blocks, made = given.astype(np.float64).reshape(12, 8, 16), found.reshape(12, 8, 16)
    errors = ((blocks - made) ** 2).sum(axis=-1)
    peaks = np.abs(blocks).max(axis=-1) / factors
    usual = np.abs(peaks[..., None] / 6 - POSITIVE).argmin(axis=-1)  # the code by which the largest becomes a 6
    every = np.stack(
        [
            ((blocks - nearest(blocks, np.broadcast_to(factors[..., None] * scale, blocks.shape), E2M1)) ** 2).sum(-1)
            for scale in POSITIVE
        ]
    )
    assert (errors <= every.min(axis=0) * (1 + 1e-5)).all()
    plain = np.take_along_axis(every, usual[None], axis=0)[0]
    assert errors.sum() < 0.85 * plain.sum()


def test_nvfp4_stores_the_nearest_codes() -> None:
    given = weights(6, 64)
    raw = roundings()["nvfp4"].round(given)
    codes = np.stack([raw[:, :32] & 15, raw[:, :32] >> 4], axis=-1).reshape(6, 64)
    scales = POSITIVE[raw[:, 32:36]] * raw[:, -4:].copy().view("<f4")
    wide = np.repeat(scales, 16, axis=1)
    mine = wide * E2M1[codes & 7] * np.where(codes & 8, -1, 1)
    best = nearest(given.astype(np.float64), wide, E2M1)
    assert np.allclose(np.abs(mine - given), np.abs(best - given), rtol=1e-4, atol=1e-6 * np.abs(given).max())
    assert (codes != 8).all()


def test_fp8_stores_the_nearest_codes_and_searches_its_scales() -> None:
    given = weights(12, 256)
    given[1, :128] = 0
    raw = roundings()["fp8"].round(given)
    codes, scales = raw[:, :256], raw[:, 256:].copy().view("<f4").astype(np.float64)
    blocks, wide = given.astype(np.float64).reshape(12, 2, 128), np.repeat(scales, 128, axis=1).reshape(12, 2, 128)
    signed = np.array([e4m3(code) for code in range(256)])[codes].reshape(12, 2, 128) * wide
    error = (signed - blocks) ** 2
    assert np.allclose(
        error, (nearest(blocks, wide, POSITIVE) - blocks) ** 2, rtol=1e-4, atol=1e-13 * blocks.max() ** 2
    )
    peaks = np.abs(blocks).max(axis=-1, keepdims=True)
    assert np.isclose(np.abs(signed).max(axis=-1, keepdims=True), peaks, rtol=1e-6).all()
    tops = np.stack([np.broadcast_to(peaks / top, blocks.shape) for top in (448, 416, 384, 352, 320, 288, 256, 240)])
    every = np.stack([((nearest(blocks, scale, POSITIVE) - blocks) ** 2).sum(axis=-1) for scale in tops])
    assert (error.sum(axis=-1) <= every.min(axis=0) * (1 + 1e-4)).all()
    assert error.sum() < 0.85 * every[0].sum()


def test_a_row_of_fp8_may_end_within_a_block() -> None:
    given = weights(9, 352)  # 2.75 blocks
    raw = roundings()["fp8"].round(given)
    assert raw.shape == (9, 352 + 3 * 4)
    filled = roundings()["fp8"].round(np.concatenate([given, np.zeros((9, 32), np.float32)], axis=1))
    assert np.array_equal(raw[:, :352], filled[:, :352])
    assert np.array_equal(raw[:, 352:], filled[:, 384:])


@pytest.mark.parametrize("rounding", roundings().values(), ids=lambda rounding: rounding.name)
def test_a_row_is_rounded_by_itself(rounding: Rounding) -> None:
    given = weights(33, 2176)  # more than are rounded at a time
    whole = rounding.round(given)
    assert whole.shape == (33, format_named(rounding.format).row_bytes(2176))
    for row in (0, 17, 32):
        assert np.array_equal(rounding.round(given[row : row + 1]), whole[row : row + 1])
    assert np.array_equal(rounding.round(np.asfortranarray(given)), whole)


@pytest.mark.parametrize("rounding", roundings().values(), ids=lambda rounding: rounding.name)
def test_weights_of_any_size(rounding: Rounding) -> None:
    given = weights(8, 128)
    given[0] = 0
    given[1] = -0.0
    given[2] *= np.float32(1e-41)
    given[3] = np.float32(1e-45)
    given[4] = np.float32(rounding.largest) * np.linspace(-1, 1, 128, dtype=np.float32)
    given[5], given[5, 0] = 0, 2.5
    made = format_named(rounding.format).dequantize(rounding.round(given))
    assert np.isfinite(made).all()
    assert not made[:2].any()
    assert np.abs(made[2:4]).max() < 1e-37
    assert np.abs(made[4] - given[4]).max() <= rounding.largest * 0.17  # of nvfp4 half a step, from 4 to 6
    assert made[5, 0] == pytest.approx(2.5, rel=0.01)
    assert not made[5, 1:].any()


def test_an_unknown_word() -> None:
    with pytest.raises(ImpError, match=r"--weights 'nvfp5' is unknown; known: fp8, nvfp4, q8_0"):
        rounding_named("nvfp5")
