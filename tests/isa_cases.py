"""What the kernels of tests/sim/kernels are given and must give back (numpy), for simulator and GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e4m3 import e4m3
from imp_runtime.device import Device, Launch, Module

Array = NDArray[Any]
SOURCE = Path(__file__).resolve().parent / "sim" / "kernels" / "isa.cu"
RESIDENT_SOURCE = SOURCE.with_name("resident.cu")
WGMMA_SOURCE = SOURCE.with_name("wgmma.cu")
FP4_SOURCE = SOURCE.with_name("fp4.cu")


@dataclass(frozen=True, slots=True)
class Buffer:
    """A pointer argument: contents before and after the launch; `tolerance` is relative and absolute, 0 means bits."""

    before: Array
    after: Array
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One launch of the kernel `entry`."""

    entry: str
    buffers: tuple[Buffer, ...]
    grid: tuple[int, int, int] = (1, 1, 1)
    block: int = 32
    shared_bytes: int = 0
    resident: bool = False


def check(case: Case, results: list[Array]) -> None:
    """Compare the buffers' contents after a launch."""
    for number, (buffer, result) in enumerate(zip(case.buffers, results, strict=True)):
        name = f"{case.entry}, argument {number}"
        if buffer.tolerance:
            np.testing.assert_allclose(result, buffer.after, buffer.tolerance, buffer.tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(result, buffer.after, err_msg=name)


def _same(array: Array) -> Buffer:
    return Buffer(array, array)


def _out(array: Array, tolerance: float = 0.0) -> Buffer:
    return Buffer(np.zeros_like(array), array, tolerance)


def _butterfly(values: Array, width: int = 32) -> Array:
    """Sums over aligned groups of the last axis, in the order of the warp's butterfly."""
    mask = width // 2
    while mask:
        values = values + values[..., np.arange(values.shape[-1]) ^ mask]
        mask //= 2
    return values


def _collectives(rng: np.random.Generator) -> Case:
    x = rng.standard_normal(32, np.float32)
    n = rng.integers(-(2**31), 2**31, 32).astype(np.int32)
    lane = np.arange(32)
    out = np.stack(
        [
            *(_butterfly(x), _butterfly(x), _butterfly(x * x), np.full(32, x.max()), _butterfly(x, 8)),
            *(x.reshape(8, 4).max(1).repeat(4), _butterfly(x, 2), x[::-1], x[lane ^ 5], np.full(32, x[3])),
        ]
    )
    wide = n.astype(np.int64)
    votes = np.full(32, sum(1 << int(i) for i in lane if n[i] > 0), np.uint32)
    words = np.stack(
        [
            np.full(32, wide.sum()).astype(np.uint32),
            wide.reshape(2, 16).sum(1).repeat(16).astype(np.uint32),
            votes,
            ((lane ^ 1) + 7).astype(np.uint32),
        ]
    )
    return Case("collectives", (_same(x), _same(n), _out(out), _out(words)))


def _block_reduce(rng: np.random.Generator) -> Case:
    x = rng.standard_normal((3, 16, 32), np.float32)
    partial = np.zeros((3, 32), np.float32)
    partial[:, :16] = _butterfly(x)[..., 0]
    return Case("block_reduce", (_same(x), _out(_butterfly(partial)[:, 0])), grid=(3, 1, 1), block=512, shared_bytes=64)


def _eighths(rng: np.random.Generator, *shape: int) -> Array:
    """Multiples of 1/8: all products and sums are exact, in any order, in fp32."""
    return (rng.integers(-16, 17, shape) / 8).astype(np.float32)


def _gemms(rng: np.random.Generator) -> list[Case]:
    shared = 24 * 144
    x, y = _eighths(rng, 16, 64), _eighths(rng, 8, 64)
    product = x @ y.T
    half = (_same(x.astype(np.float16)), _same(y.astype(np.float16)), _out(product))
    bfloat = (*(_same((v.view(np.uint32) >> 16).astype(np.uint16)) for v in (x, y)), _out(product))
    cases = [Case("gemm_f16", half, shared_bytes=shared), Case("gemm_bf16", bfloat, shared_bytes=shared)]
    x, y = (np.trunc(_eighths(rng, rows, 64) * 2) / 2 for rows in (16, 8))  # sums are exact as halfs, too
    half = (_same(x.astype(np.float16)), _same(y.astype(np.float16)), _out(x @ y.T))
    cases += [Case("gemm_f16_half", half, shared_bytes=shared)]
    x, y = _eighths(rng, 16, 16), _eighths(rng, 16, 8)
    trans = (_same(x.astype(np.float16)), _same(y.astype(np.float16)), _out(x.T @ y))
    return [*cases, Case("gemm_f16_trans", trans, shared_bytes=768)]


def _fragments(rng: np.random.Generator) -> Case:
    """Lane by lane, from the formulas of the PTX ISA for m16n8k16: index i of a fragment names one row and column."""
    a, b, c = _eighths(rng, 16, 16), _eighths(rng, 16, 8), _eighths(rng, 16, 8)
    fragments_a, fragments_b = np.zeros((32, 8), np.float16), np.zeros((32, 4), np.float16)
    before, after = np.zeros((32, 4), np.float32), np.zeros((32, 4), np.float32)
    d = a @ b + c
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(8):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            fragments_a[lane, i] = a[row, member * 2 + (i & 1) + (0 if i < 4 else 8)]
        for i in range(4):
            fragments_b[lane, i] = b[member * 2 + (i & 1) + (0 if i < 2 else 8), group]
            where = (group if i < 2 else group + 8, member * 2 + (i & 1))
            before[lane, i], after[lane, i] = c[where], d[where]
    return Case("fragments_f16", (_same(fragments_a), _same(fragments_b), Buffer(before, after)))


def _e4m3() -> Case:
    """All pairs of codes; what is no number is a half that is none."""
    pairs = np.arange(1 << 16).astype(np.uint16)
    values = np.array([e4m3(code) for code in range(256)], np.float32).astype(np.float16)
    bits = np.where(np.isnan(values), np.uint16(0x7FFF), values.view(np.uint16)).astype(np.uint32)
    out = bits[pairs & 255] | bits[pairs >> 8] << 16
    return Case("e4m3", (_same(pairs), _out(out)), grid=(256, 1, 1), block=256)


def _transpose(rng: np.random.Generator) -> Case:
    x = rng.integers(0, 2**16, (8, 8), np.uint16)
    return Case("transpose", (_same(x), _out(np.ascontiguousarray(x.T))))


def _last_arriver(rng: np.random.Generator) -> Case:
    x = rng.standard_normal((40, 8, 32), np.float32)
    partial = np.zeros(40, np.float32)
    for warp in range(8):
        partial = partial + _butterfly(x)[:, warp, 0]
    lanes = np.zeros((2, 32), np.float32)
    lanes.reshape(-1)[:40] = partial
    out = _butterfly(lanes[0] + lanes[1])[:1]
    buffers = (_same(x), _out(partial), _same(np.zeros(1, np.uint32)), _out(out))
    return Case("last_arriver", buffers, grid=(40, 1, 1), block=256, shared_bytes=80)


def _pipeline(rng: np.random.Generator) -> Case:
    x = rng.integers(0, 2**32, (8, 64, 4), np.uint32)
    neighbour = x[:, np.arange(64) ^ 1]
    out = np.zeros((64, 4), np.uint32)
    for v in neighbour:
        out[:, 0] += v[:, 0]
        out[:, 1] ^= v[:, 1]
        out[:, 2] += 3 * v[:, 2]
        out[:, 3] += v[:, 3]
    return Case("pipeline", (_same(x), _out(out)), block=64, shared_bytes=3 * 1024)


def _memory(rng: np.random.Generator) -> Case:
    x = rng.integers(0, 2**32, (64, 4), np.uint32)
    out = x.copy()
    out[:, :2] *= 2
    added = int((x[:, 0] & 255).sum())
    counters = np.array([added, x[:, 1].max(), 5 + 63 * 32], np.uint32)
    total = int(x[:, 0].astype(np.uint64).sum()) << 20
    wide = np.array([total, total + added], np.uint64)
    buffers = (_same(x), _out(out), _out(counters), _out(wide))
    return Case("memory_operations", buffers, block=64, shared_bytes=16)


def _permute(a: int, b: int, selector: int) -> int:
    both = (b << 32 | a).to_bytes(8, "little")
    picked = (selector >> 4 * i & 15 for i in range(4))
    return int.from_bytes(bytes((255 if both[s & 7] >> 7 else 0) if s & 8 else both[s] for s in picked), "little")


def _to_bfloat(x: Array) -> Array:
    """To nearest even, by choosing between the two neighbours."""
    low = x.view(np.uint32) >> 16
    high = low + 1
    as_float = [(v << 16).astype(np.uint32).view(np.float32).astype(np.float64) for v in (low, high)]
    below, above = (np.abs(x.astype(np.float64) - v) for v in as_float)
    up = (above < below) | ((above == below) & (low % 2 == 1))
    return np.where(np.isnan(x), 0x7FFF, np.where(up, high, low)).astype(np.uint16)


def _arithmetic(rng: np.random.Generator) -> Case:
    n = 256
    a, b = (rng.integers(0, 2**32, n, np.uint32) for _ in range(2))
    x = (rng.standard_normal(n) * 10.0 ** rng.integers(-8, 6, n)).astype(np.float32)
    ties = [
        0.5,
        1.5,
        -2.5,
        65519.0,
        65520.0,
        -65536.0,
        2.0**-14,
        2.0**-24,
        2.0**-25,
        3 * 2.0**-25,
        1 + 2.0**-11,
        1 + 3 * 2.0**-11,
    ]
    special = [np.nan, 0.0, -0.0, 3e9, -3e9, 1e30, -1e30, 2.0**31, -(2.0**31), 1 + 2.0**-8, 1 + 3 * 2.0**-8]
    x[: len(ties)] = ties
    x[64 : 64 + len(special)] = special
    following = np.roll(x, -1)
    with np.errstate(all="ignore"):
        half = np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16)).astype(np.uint32)
        bfloat = _to_bfloat(x).astype(np.uint32)
        signed = [v.view(np.int8).reshape(n, 4).astype(np.int64) for v in (a, b)]
        unsigned = a.view(np.uint8).reshape(n, 4).astype(np.int64)
        rounded = np.clip(np.nan_to_num(np.rint(x.astype(np.float64)), nan=0.0), -(2.0**31), 2.0**31 - 1).astype(
            np.int64
        )
        words = np.stack(
            [
                np.array([_permute(*map(int, (u, v, u ^ v >> 3))) for u, v in zip(a, b, strict=True)], np.uint32),
                ((signed[0] * signed[1]).sum(1) + (a >> 7)).astype(np.uint32),
                ((unsigned * signed[1]).sum(1) + (a >> 7)).astype(np.uint32),
                ((a.astype(np.uint64) << np.uint64(32) | a) >> (b & 31).astype(np.uint64)).astype(np.uint32),
                rounded.astype(np.uint32),
                half,
                half | np.roll(half, -1) << 16,
                bfloat | np.roll(bfloat, -1) << 16,
            ]
        )
        halves = a.view(np.float16).reshape(n, 2).astype(np.float32)
        wide = x.astype(np.float64)
        turn = np.fmod(wide, 2.0) * np.pi
        magnitude, small = np.abs(wide) + 0.25, wide / 65536
        power = np.exp2(np.fmin(wide, 1.0))
        floats = np.stack(
            [
                *(halves[:, 0], halves[:, 1], (b & 0xFFFF).astype(np.uint16).view(np.float16).astype(np.float32)),
                *(
                    np.fmax(x, following),
                    np.maximum(x, following),
                    np.fmin(x, following),
                    wide * following.astype(np.float64) + 1.5,
                ),
                *(np.sin(turn), np.cos(turn), np.exp2(small), np.exp(small), 1 / np.sqrt(magnitude)),
                *(wide / magnitude, np.array([math.erf(value) for value in small])),
                np.where(power < 2.0**-126, 0.0, power),
            ]
        ).astype(np.float32)
    return Case("arithmetic", (_same(a), _same(b), _same(x), _out(words), _out(floats, 4e-6)), block=n)


def _nearest_half(exact: Fraction) -> np.float16:
    """Ties to even; what is too large by half a step is infinite."""
    largest = Fraction(65504)
    if abs(exact) >= largest + 16:
        return np.float16(math.copysign(math.inf, exact))
    near = np.float16(float(max(-largest, min(exact, largest))))
    around = (near, np.nextafter(near, np.float16(-np.inf)), np.nextafter(near, np.float16(np.inf)))
    finite = [half for half in around if np.isfinite(half)]
    return min(finite, key=lambda half: (abs(Fraction(float(half)) - exact), int(half.view(np.uint16)) & 1))


def _half_arithmetic(rng: np.random.Generator) -> Case:
    n = 256
    bits = rng.integers(0, 2**16, (3, n, 2), np.uint16)
    bits[:, : n // 2] = bits[:, : n // 2] & 0x8FFF | 0x3000  # of like size, so that sums round
    a, b, c = bits.view(np.float16)
    # a product that lies next to half a step, with something too small for a double's sum to show
    a[0], b[0], c[0] = (2.0**-14, 1.5), (2.0**-14 * 1.5, 1365 * 2.0**-10), (1 + 2.0**-10, 2.0**-24)
    out = np.zeros((3, n, 2), np.float16)
    for at in np.ndindex(n, 2):
        given = [value[at] for value in (a, b, c)]
        if not all(map(np.isfinite, given)):
            with np.errstate(all="ignore"):
                wide = [np.float64(value) for value in given]
                made = (wide[0] - wide[1], wide[0] * wide[1], wide[0] * wide[1] + wide[2])
                out[(slice(None), *at)] = np.array(made).astype(np.float16)
            continue
        x, y, z = (Fraction(float(value)) for value in given)
        results = [_nearest_half(exact) for exact in (x - y, x * y, x * y + z)]
        # a sum of nothing, and a product of nothing, keep the signs that IEEE gives them
        with np.errstate(all="ignore"):
            zeros = (given[0] - given[1], given[0] * given[1], np.float64(given[0]) * np.float64(given[1]) + given[2])
        out[(slice(None), *at)] = [
            np.copysign(np.float16(0), np.float16(zero)) if result == 0 and exact == 0 else result
            for result, zero, exact in zip(results, zeros, (x - y, x * y, x * y + z), strict=True)
        ]
        for i, exact in enumerate((x - y, x * y, x * y + z)):
            if out[(i, *at)] == 0 and exact != 0:
                out[(i, *at)] = np.copysign(np.float16(0), 1 if exact > 0 else -1)
    words = out.view(np.uint16)
    words[np.isnan(out)] = 0x7FFF
    pairs = [np.ascontiguousarray(value).view(np.uint32).reshape(n) for value in (a, b, c)]
    return Case("half_arithmetic", (*map(_same, pairs), _out(words.view(np.uint32).reshape(3, n))), block=n)


def wgmma_cases() -> list[Case]:
    """Those of WGMMA_SOURCE."""
    rng = np.random.default_rng(11)
    found = []
    for columns in (64, 128, 256):
        a, b = _eighths(rng, 128, 64), _eighths(rng, columns, 64)
        buffers = (_same(a.astype(np.float16)), _same(b.astype(np.float16)), _out(a @ b.T))
        found.append(Case(f"wgmma_{columns}", buffers, block=256, shared_bytes=columns * 128))
    for columns in (64, 128):
        a, b = _eighths(rng, 128, 64), _eighths(rng, 64, columns)
        buffers = (_same(a.astype(np.float16)), _same(b.astype(np.float16)), _out(a @ b))
        found.append(Case(f"wgmma_lines_{columns}", buffers, block=256, shared_bytes=columns * 128))
    return found


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_UE4M3 = np.array([e4m3(code) for code in range(127)], np.float32)


def _nearest(sizes: Array, table: Array) -> Array:
    """Codes of the numbers of a table next to sizes, of two as near the even one; beyond the table its last."""
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    codes = np.searchsorted(middles, sizes.astype(np.float64), "left")
    ties = (codes < len(middles)) & (middles[np.minimum(codes, len(middles) - 1)] == sizes)
    return (codes + (ties & (codes % 2 == 1))).astype(np.uint32)


def _small_floats(rng: np.random.Generator) -> Case:
    """Every middle between two codes, what lies beside it, and what is no number."""
    middles = [(table[1:] + table[:-1]) / 2 for table in (_E2M1, _UE4M3)]
    drawn = 10.0 ** rng.uniform(-4, 4, 64)
    sizes = np.concatenate([_E2M1, _UE4M3, *middles, drawn, [464, 470, np.inf]]).astype(np.float32)
    beside = [np.nextafter(sizes, np.float32(end)) for end in (0, np.inf)]
    sizes = np.concatenate([sizes, *beside, [np.nan]]).astype(np.float32)
    x = np.resize(sizes, 992) * np.where(np.arange(992) < len(sizes), 1, -1).astype(np.float32)
    nan = np.isnan(x)
    e2m1 = np.where(nan, 7, _nearest(np.abs(x), _E2M1) | np.signbit(x).astype(np.uint32) << 3).astype(np.uint32)
    wide = np.where(nan, 0x7F, _nearest(np.abs(x), _UE4M3) | np.signbit(x).astype(np.uint32) << 7).astype(np.uint32)
    return Case("small_floats", (_same(x), _out(np.stack([e2m1 | np.roll(e2m1, -1) << 4, wide]))), block=len(x))


def _fragments_nvfp4(rng: np.random.Generator, scales: tuple[int, int], tolerance: float) -> Case:
    """Lane by lane, from the PTX ISA's formulas for m16n8k64 with scale_vec::4X, and tables of both formats.

    `scales`: codes that scales are drawn from. Of a few of them sums are exact in any order, and bits count.
    """
    codes_a, codes_b = rng.integers(0, 16, (16, 64), np.uint32), rng.integers(0, 16, (8, 64), np.uint32)
    scales_a, scales_b = rng.integers(*scales, (16, 4), np.uint32), rng.integers(*scales, (8, 4), np.uint32)
    signed = np.concatenate([_E2M1, -_E2M1]).astype(np.float64)
    values_a = signed[codes_a] * _UE4M3[scales_a].repeat(4 * 4, axis=1)
    values_b = signed[codes_b] * _UE4M3[scales_b].repeat(4 * 4, axis=1)
    c = _eighths(rng, 16, 8)
    d = values_a @ values_b.T + c
    a, b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    words = rng.integers(0, 2**32, (2, 32), np.uint32)  # most lanes' mean nothing
    before, after = np.zeros((32, 4), np.float32), np.zeros((32, 4), np.float32)
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(32):
            row = group if i < 8 or 16 <= i < 24 else group + 8
            a[lane, i // 8] |= codes_a[row, member * 8 + (i & 7) + (0 if i < 16 else 32)] << np.uint32(i % 8 * 4)
        for i in range(16):
            b[lane, i // 8] |= codes_b[group, member * 8 + (i & 7) + (0 if i < 8 else 32)] << np.uint32(i % 8 * 4)
        for i in range(4):
            where = (group if i < 2 else group + 8, member * 2 + (i & 1))
            before[lane, i], after[lane, i] = c[where], d[where]
    for row in range(16):
        words[0, 4 * (row % 8) + row // 8] = scales_a[row].astype(np.uint8).view(np.uint32)[0]
    for column in range(8):
        words[1, 4 * column] = scales_b[column].astype(np.uint8).view(np.uint32)[0]
    return Case("fragments_nvfp4", (*map(_same, (a, b, words)), Buffer(before, after, tolerance)))


def fp4_cases() -> list[Case]:
    """Those of FP4_SOURCE."""
    rng = np.random.default_rng(12)
    exact = [_fragments_nvfp4(rng, (0x38, 0x48), 0.0) for _ in range(4)]
    return [_small_floats(rng), *exact, _fragments_nvfp4(rng, (0, 127), 1e-3)]


def _indices() -> Case:
    row = np.array([64, 8, 1, 3], np.int32)
    return Case("indices", (_out(np.tile(row, (6, 1))),), grid=(3, 2, 1), block=64)


def _exchange(rng: np.random.Generator, blocks: int) -> Case:
    x = rng.integers(0, 2**28, (blocks, 64), np.uint32)
    value, words = x, np.zeros((2, blocks, 64), np.uint32)
    for turn in range(1, 13):
        words[turn % 2] = value << np.uint32(4) | np.uint32(turn)
        weights = np.arange(1, blocks + 1, dtype=np.uint32)[:, None]
        value = np.tile((value * weights).sum(0, dtype=np.uint32) & np.uint32(0xFFFFFFF), (blocks, 1))
    counter = np.array([12 * blocks], np.uint32)
    buffers = (_same(x), _out(words), _out(counter), _out(value))
    return Case("exchange", buffers, (blocks, 1, 1), 64, resident=True)


def ring_case(entry: str, blocks: int) -> Case:
    """Three warps that share the tiles of each block."""
    x = np.random.default_rng(blocks).integers(0, 2**32, (blocks, 29, 32, 4), np.uint32)
    out = np.zeros((blocks, 3, 32, 4), np.uint32)
    for tile in range(29):
        v = x[:, tile, np.arange(32) ^ 1]
        taker = out[:, tile % 3]
        taker[..., 0] += v[..., 0]
        taker[..., 1] ^= v[..., 1]
        taker[..., 2] += 3 * v[..., 2]
        taker[..., 3] += 1
    return Case(entry, (_same(x), _out(out)), (blocks, 1, 1), 128, 6 * 512 + 12 * 8, True)


def pass_case(entry: str) -> Case:
    """One block leaves words for three others."""
    data, flag, out = np.full(8, 7, np.uint32), np.ones(1, np.uint32), np.full(4, 56, np.uint32)
    return Case(entry, (_out(data), _out(flag), _out(out)), (4, 1, 1), 32, 0, True)


def _pointers(rng: np.random.Generator) -> Case:
    values = rng.integers(0, 2**32, 600, np.uint32)
    return Case("pointers", (*(_same(values[i : i + 1]) for i in range(600)), _out(values)), resident=True)


def resident_cases() -> list[Case]:
    """Those of RESIDENT_SOURCE that have no bug."""
    rng = np.random.default_rng(8)
    tile = rng.integers(0, 2**32, (32, 4), np.uint32)
    return [
        _exchange(rng, 2),
        _exchange(rng, 5),
        ring_case("ring", 3),
        pass_case("plain_data_fixed"),
        pass_case("relaxed_data_fixed"),
        _pointers(rng),
        Case("hand_over_fixed", (Buffer(np.zeros(96, np.float32), _handed_over()),), (1, 1, 1), 96, 384, True),
        Case("barrier_none", (Buffer(tile, np.zeros_like(tile)), _out(tile[::-1].copy())), (1, 1, 1), 32, 520, True),
    ]


def _handed_over() -> Array:
    y = np.zeros(96, np.float32)
    y[:64] = np.arange(64) ^ 32
    return y


def run(device: Device, module: Module, case: Case) -> None:
    """Launch a case's kernel, and check what it leaves."""
    addresses = []
    for buffer in case.buffers:
        address = device.alloc(max(buffer.before.nbytes, 256), case.entry)
        device.upload(address, np.ascontiguousarray(buffer.before))
        addresses.append(address)
    kernel = module.kernel(case.entry, case.shared_bytes)
    shape = (case.grid, case.block, case.shared_bytes)
    device.launch(Launch(case.entry, kernel, *shape, tuple(addresses), resident=case.resident))
    device.synchronize()
    results = [
        device.download(address, buffer.before.nbytes).view(buffer.before.dtype).reshape(buffer.before.shape)
        for address, buffer in zip(addresses, case.buffers, strict=True)
    ]
    check(case, results)


def cases() -> list[Case]:
    """Those of SOURCE, from fixed random numbers."""
    rng = np.random.default_rng(7)
    return [
        _collectives(rng),
        _block_reduce(rng),
        *_gemms(rng),
        _fragments(rng),
        _transpose(np.random.default_rng(9)),
        _last_arriver(rng),
        _pipeline(rng),
        _memory(rng),
        _arithmetic(rng),
        _half_arithmetic(np.random.default_rng(10)),
        _e4m3(),
        _indices(),
    ]
