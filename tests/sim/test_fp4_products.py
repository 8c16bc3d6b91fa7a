"""Prefill with weights and activations of four bits on the CPU, encoder and product in check mode, against numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import compile_sim
from test_panel_stages import GATES, Kernels, Matrix, Product, Warps, biases, weights
from test_prefill_stages import Encode, Entry, placed, step

from e4m3 import e4m3

Array = NDArray[Any]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
UE4M3 = np.array([e4m3(code) for code in range(127)])


@dataclass(frozen=True)
class Fp4Product(Product):
    """Likewise, by FP4 tensor cores."""

    def stage(self) -> str:
        return super().stage().replace("imp::GemmMma<", "imp::GemmFp4<")


def product(matrices: tuple[Matrix, ...], cols: int, tokens: int, stride: int, **more: Any) -> Fp4Product:
    shared = more.pop("shared", Warps(2, 2, half_sums=False))
    return Fp4Product(matrices, cols, tokens, stride, warps=shared, **more)


PRODUCTS = {
    "one": product((Matrix("NVFP4", 35, (4, 192), bias=True),), 192, 64, 39, offset=3, accumulate=True, scale=0.5),
    "small": product((Matrix("NVFP4_TENSORS", 20, (2, 64)),), 64, 32, 20, shared=Warps(1, 1, False), block_tokens=32),
    "several": product(
        (Matrix("NVFP4_TENSORS", 70, (2, 128), bias=True), Matrix("NVFP4_SCALED", 66, (4, 320))), 640, 128, 136
    ),
    "gated": product(2 * (Matrix("NVFP4_TENSORS", 36, (2, 256)),), 256, 64, 40, offset=2, gate="Silu"),
}
WIDE = product(
    (Matrix("NVFP4_TENSORS", 70, (2, 128)),), 384, 128, 70, block_tokens=128, shared=Warps(2, 1, half_sums=False)
)
NARROW = product((Matrix("NVFP4_TENSORS", 70, (2, 128)),), 384, 32, 70, block_tokens=32, shared=Warps(1, 1, False))
ENCODERS = {
    "plain": Encode(cols=224, dense=False, panels=True),
    "norm": Encode(cols=1088, source="norm", dense=False, panels=True),
    "gated": Encode(cols=96, source="gated", dense=False, panels=True),
}


def encoder(case: Encode) -> Entry:
    stage = case.stage().replace(".fragments = false", ".fragments = false, .fp4 = true")
    return Entry(stage, 6 + (case.struct or 1), case.struct)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("fp4")
    lines = [f'#include "imp/{name}.h"' for name in ("stage/encode_activations", "stage/gemm_fp4", "layout/nvfp4")]
    lines.append("struct Any { void* p; template <class T> operator T*() const { return static_cast<T*>(p); } };")
    products = {**PRODUCTS, "wide": WIDE, "narrow": NARROW}
    lines += [each.source(name) for name, each in products.items()]
    lines += [encoder(case).source(f"encode_{name}") for name, case in ENCODERS.items()]
    (folder / "fp4.cu").write_text("\n".join(lines), "utf-8")
    return Kernels(compile_sim(folder / "fp4.cu", folder, "check"))


def places(tokens: int, cols: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where a code lies, counted in halves of bytes, and a scale's byte: [tokens, cols] and [tokens, cols / 16].

    From what a lane's registers are in m16n8k64: of its 16 bytes the words are the two of a group's first step, then of
    the second, and word w of a step is rows 8 t + 32 w to 8 t + 32 w + 7 of the right operand for lane t of a column.
    """
    codes = np.zeros((tokens, -(-cols // 128) * 128), np.int64)
    scales = np.zeros((tokens, codes.shape[1] // 16), np.int64)
    for group in range(codes.shape[1] // 128):
        for at in range(128):  # of a step each block of 16 rows has one scale, wherever its columns come from
            number, row = divmod(at, 64)
            lane, word, nibble = row % 32 // 8, row // 32, row % 8
            block = number + lane // 2 * 2  # of 32 columns
            column = group * 128 + block * 32 + word * 16 + lane % 2 * 8 + nibble
            for token in range(tokens):
                eight = (group * (tokens // 8) + token // 8) * 576
                codes[token, column] = (eight + (token % 8 * 4 + lane) * 16 + number * 8 + word * 4) * 2 + nibble
                scales[token, column // 16] = eight + 512 + token % 8 * 8 + number * 4 + row // 16
    return codes[:, :cols], scales[:, : cols // 16]


def decoded(panels: Array, tokens: int, cols: int) -> Array:
    codes, scales = places(tokens, cols)
    flat = panels.reshape(-1)
    nibbles = np.stack([flat & 15, flat >> 4], axis=-1).reshape(-1)
    return E2M1[nibbles[codes]] * UE4M3[flat[scales]].repeat(16, axis=1)


def drawn(tokens: int, cols: int, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Panels and factors with numbers that are none from token n on, and what those before mean."""
    panels = placed(np.zeros((-(-cols // 128), tokens, 72), np.uint8))
    nibbles = np.zeros(panels.size * 2, np.uint8)
    codes, scales = places(tokens, cols)
    nibbles[codes] = rng.integers(0, 16, codes.shape)
    panels.reshape(-1)[:] = nibbles[::2] | nibbles[1::2] << 4
    panels.reshape(-1)[scales] = rng.integers(0, 127, scales.shape)
    factors = rng.uniform(5e-4, 2e-3, tokens).astype(np.float32)
    meant = decoded(panels, tokens, cols) * factors[:, None].astype(np.float64)
    panels.reshape(-1)[scales[n:]] = 0x7F
    factors[n:] = np.nan
    return panels, placed(factors), meant


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("n", [1, 27, 10**9], ids=["one", "some", "all"])
def test_product(kernels: Kernels, name: str, n: int) -> None:
    case = PRODUCTS[name]
    n = min(n, case.tokens)
    rng = np.random.default_rng([n, *name.encode()])
    planes, meant = weights(case, rng)
    panels, factors, x = drawn(case.tokens, case.cols, n, rng)
    given = biases(case, rng)
    y = placed(rng.standard_normal((case.tokens, case.stride)).astype(np.float32))
    before = y.copy()
    kernels.run(name, panels, factors, *planes, *given, None, None, None, None, y, step(n))

    added = iter(given)
    bias = [next(added) if m.bias else np.zeros(m.rows) for m in case.matrices]
    columns = slice(case.offset, case.offset + case.rows)
    parts = [x[:n] @ w.T + b for w, b in zip(meant, bias, strict=True)]
    bounds = [np.abs(x[:n]) @ np.abs(w).T * 1e-6 + 1e-6 for w in meant]  # float32 sums of what is exact
    if case.gate:
        (gate, up), (of_gate, of_up) = parts, bounds
        gates = GATES[case.gate](gate)
        exact = gates * up
        bound = 1.13 * of_gate * (np.abs(up) + of_up) + np.abs(gates) * of_up + 1e-5 * np.abs(exact)
    else:
        exact = np.concatenate(parts, axis=1) * case.scale
        bound = np.concatenate(bounds, axis=1) * case.scale
    exact += before[:n, columns] if case.accumulate else 0
    assert np.all(np.abs(y[:n, columns] - exact) <= bound)
    y[:n, columns] = before[:n, columns]
    np.testing.assert_array_equal(y, before)


def test_no_bit_depends_on_the_chunk(kernels: Kernels) -> None:
    rng = np.random.default_rng(5)
    planes, _ = weights(WIDE, rng)
    panels, factors, _ = drawn(128, WIDE.cols, 128, rng)
    whole = placed(np.zeros((128, 70), np.float32))
    kernels.run("wide", panels, factors, *planes, None, None, None, None, None, whole, step(128))
    part = placed(np.zeros((32, 70), np.float32))
    some = placed(np.ascontiguousarray(panels[:, 48:80]))
    kernels.run("narrow", some, placed(factors[48:80]), *planes, None, None, None, None, None, part, step(21))
    np.testing.assert_array_equal(part[:21], whole[48:69])
    assert not part[21:].any()


def nearest(values: Array, table: Array) -> Array:
    """The index of what is next to each value, of two as near the even one."""
    middles = (table[1:] + table[:-1]) / 2
    at = np.searchsorted(middles, values)
    tie = (at < len(middles)) & (middles[np.minimum(at, len(middles) - 1)] == values)
    return at + (tie & (at % 2 == 1))


def encoded(x: Array) -> Array:
    """Values [tokens, cols] as the definition has it: x = code * scale * row's peak / 2688, in float32's steps."""
    x = x.astype(np.float32)
    row = np.abs(x).max(axis=1, keepdims=True)
    blocks = (x * (np.float32(2688) / row)).reshape(len(x), -1, 16)
    scales = UE4M3[nearest(np.abs(blocks).max(axis=2, keepdims=True) * np.float32(1 / 6), UE4M3)].astype(np.float32)
    with np.errstate(divide="ignore"):
        codes = blocks * np.where(scales > 0, 1 / scales, 0).astype(np.float32)
    sizes = E2M1[nearest(np.abs(codes), E2M1[:8])]
    return (np.copysign(sizes, codes) * scales).reshape(x.shape)


def rows_of(tokens: int, cols: int, rng: np.random.Generator) -> Array:
    """Blocks of very different sizes, some of them zeros."""
    x = rng.standard_normal((tokens, cols)) * 10.0 ** rng.uniform(-6, 1, (tokens, cols // 16)).repeat(16, axis=1)
    x[3, :32] = 0
    x[5] *= 1e30
    return placed(x.astype(np.float32))


@pytest.mark.parametrize("n", [1, 27, 32])
def test_encoder(kernels: Kernels, n: int) -> None:
    case, rng = ENCODERS["plain"], np.random.default_rng(n)
    x = rows_of(32, case.cols, rng)
    panels, factors = placed(np.full((2, 32, 72), 0x2A, np.uint8)), placed(np.zeros(32, np.float32))
    kernels.run("encode_plain", x, None, None, panels, factors, None, step(n))
    found = decoded(panels, 32, case.cols)[:n]
    np.testing.assert_array_equal(found, encoded(x[:n]))
    peaks = np.abs(x[:n]).max(axis=1)
    np.testing.assert_allclose(factors[:n], peaks / 2688, 2e-7)
    assert not factors[n:].any()
    codes, scales = places(32, 256)
    flat = panels.reshape(-1)
    assert not flat[scales[:n, case.cols // 16 :]].any()  # behind the last column
    assert not flat[codes[:n, case.cols :] // 2].any()
    assert (flat[codes[n:] // 2] == 0x2A).all()
    # what is lost of a block is at most half the widest step, a sixth of its largest value, but for tiny ones
    blocks = x[:n].reshape(n, -1, 16).astype(np.float64)
    lost = found.reshape(blocks.shape) * factors[:n, None, None] - blocks
    assert np.all(np.abs(lost) <= np.abs(blocks).max(axis=2, keepdims=True) / 5.3 + peaks[:, None, None] / 2688 / 64)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(kernels: Kernels, wrong: float) -> None:
    x = rows_of(32, 224, np.random.default_rng(1))
    x[2, 100] = wrong
    panels, factors = placed(np.zeros((2, 32, 72), np.uint8)), placed(np.zeros(32, np.float32))
    kernels.run("encode_plain", x, None, None, panels, factors, None, step(32))
    assert np.isnan(factors).tolist() == [token == 2 for token in range(32)]


def test_encoder_of_a_norm(kernels: Kernels) -> None:
    """Codes are those of x * weight; the norm's factor is the row's."""
    case, rng = ENCODERS["norm"], np.random.default_rng(2)
    x, norm = rows_of(32, case.cols, rng), placed(rng.uniform(0.5, 2, case.cols).astype(np.float32))
    x[5] = 1
    panels, factors = placed(np.zeros((9, 32, 72), np.uint8)), placed(np.zeros(32, np.float32))
    kernels.run("encode_norm", x, norm, None, panels, factors, None, step(32))
    np.testing.assert_array_equal(decoded(panels, 32, case.cols), encoded(x * norm))
    rms = 1 / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1) + case.eps)
    np.testing.assert_allclose(factors, np.abs(x * norm).max(axis=1) / 2688 * rms, 4e-6)


def test_encoder_of_a_gate(kernels: Kernels) -> None:
    case, rng = ENCODERS["gated"], np.random.default_rng(3)
    gate, up = rng.standard_normal((32, case.cols)), rng.standard_normal((32, case.cols + 8))
    gate, up = placed(gate.astype(np.float32)), placed(up.astype(np.float32))
    panels, factors = placed(np.zeros((1, 32, 72), np.uint8)), placed(np.zeros(32, np.float32))
    kernels.run("encode_gated", gate, up, None, None, panels, factors, None, step(32))
    wanted = GATES["Silu"](gate.astype(np.float64)) * up[:, : case.cols]
    close = encoded(wanted)
    found = decoded(panels, 32, case.cols)
    assert np.mean(found != close) < 1e-3  # an exponential's rounding turns few codes
    np.testing.assert_allclose(factors, np.abs(wanted).max(axis=1) / 2688, 1e-5)
