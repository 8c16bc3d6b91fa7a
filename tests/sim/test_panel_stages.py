"""Prefill's products of panels, by warpgroups and by warps, on the CPU in check mode, against float64 numpy."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, compile_sim
from test_prefill_stages import placed, step, values_of

from imp_codegen.formats import format_named, formats
from imp_codegen.layouts import Layout, Tile, layouts
from random_rows import place, random_rows

Array = NDArray[Any]


@dataclass(frozen=True)
class Matrix:
    """One of the matrices that a launch multiplies."""

    format: str
    rows: int
    tile: tuple[int, int]
    bias: bool = False

    def place(self, cols: int) -> tuple[Layout, Tile, str]:
        return place(format_named(self.format), self.rows, cols, Tile(*self.tile))


@dataclass(frozen=True)
class Warps:
    """How a tile is shared: `tokens`: warps side by side along them; `rows`: 16 of each; which sums a panel has."""

    tokens: int
    rows: int
    half_sums: bool
    warps: int = 8
    stages: int = 2

    def fields(self) -> str:
        return (
            f", .warps = {self.warps}, .token_warps = {self.tokens}, .row_tiles = {self.rows}, "
            f".stages = {self.stages}, .half_sums = {str(self.half_sums).lower()}"
        )


@dataclass(frozen=True)
class Product:
    """A launch: rows of all matrices side by side in y, from column `offset` on. `warps`: None for warpgroups."""

    matrices: tuple[Matrix, ...]
    cols: int
    tokens: int
    stride: int
    block_tokens: int = 64
    block_rows: int = 128  # of a tile by warpgroups
    offset: int = 0
    accumulate: bool = False
    scale: float = 1.0
    cap: float = 0.0
    warps: Warps | None = None
    halves: bool = False
    grid: int = 3
    gate: str = ""  # what the first matrix's results go through before they multiply the second one's
    ends: ClassVar[tuple[str, ...]] = ("tiles", "pairs", "halves", "arrived", "y", "step")  # pointers behind the others

    @property
    def rows(self) -> int:
        """Of y."""
        return self.matrices[0].rows if self.gate else sum(matrix.rows for matrix in self.matrices)

    @property
    def biased(self) -> int:
        return sum(matrix.bias << i for i, matrix in enumerate(self.matrices))

    def stage(self) -> str:
        config = (
            f".cols = {self.cols}, .tokens = {self.tokens}, .block_tokens = {self.block_tokens}, "
            f".stride = {self.stride}, .offset = {self.offset}, .accumulate = {str(self.accumulate).lower()}, "
            f".biased = {self.biased}, .scale = {self.scale}f, .cap = {self.cap}f"
        )
        matrices = ", ".join(matrix.place(self.cols)[2] for matrix in self.matrices)
        gate = f"imp::{self.gate or 'NoGate'}"
        paired = f", .paired = {str(bool(self.gate)).lower()}"
        if self.warps:
            return f"imp::GemmMma<imp::MmaConfig{{{config}{self.warps.fields()}{paired}}}, {gate}, {matrices}>"
        config += f", .halves = {str(self.halves).lower()}, .rows = {self.block_rows}{paired}"
        return f"imp::GemmWgmma<imp::WgmmaConfig{{{config}}}, {gate}, {matrices}>"

    def source(self, name: str) -> str:
        biases = max(self.biased.bit_count(), 1)
        planes = ", ".join(f"Any{{w{i}}}" for i in range(len(self.matrices)))
        pointers = ["panels", "factors", *(f"w{i}" for i in range(len(self.matrices)))]
        pointers += [*(f"b{i}" for i in range(biases)), *self.ends]
        bias = ", ".join(f"Any{{b{i}}}" for i in range(biases))
        ends = ", ".join(f"Any{{{name}}}" for name in self.ends)
        given = f"Any{{panels}}, Any{{factors}}, {{{planes}}}, {{{{{bias}}}}}, {ends}"
        return (
            f"using s_{name} = {self.stage()};\n"
            f'extern "C" void {name}({", ".join(f"void* {each}" for each in pointers)}) {{\n'
            f"  s_{name}::run({{{given}}});\n}}\n"
            f'extern "C" const int {name}_shape[5] = '
            f"{{{self.grid}, 1, 1, s_{name}::kThreads, s_{name}::kSharedBytes}};\n"
        )


# Those that the others below do not have, side by side. F32's weights a half cannot hold.
TENSORS = ("MXFP4_TENSORS", "NVFP4_TENSORS")  # that others' layouts hold, and one launch has no room for
FEW_BITS = sorted(name for name in formats() if name.startswith(("IQ1", "IQ2", "IQ3", "TQ")))
REST = sorted(set(formats()) - {"F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K", *TENSORS, *FEW_BITS})

HALVES = (Matrix("Q8_0", 192, (2, 256)),)
BY_WARPGROUPS = {
    "halves": Product(HALVES, 768, 256, 192, block_tokens=256, accumulate=True, halves=True),
    "halves_128": Product(HALVES, 768, 256, 192, block_tokens=128, accumulate=True, halves=True),
    "halves_small": Product(HALVES, 768, 64, 192, accumulate=True, halves=True, grid=4),  # by two CTAs each
    "halves_small_64": Product(HALVES, 768, 64, 192, block_rows=64, accumulate=True, halves=True),
    "halves_small_64_apart": Product(HALVES, 768, 64, 192, block_rows=64, accumulate=True, halves=True, grid=6),
    "odd_halves": Product(
        (Matrix("Q4_K", 70, (4, 256)), Matrix("Q6_K", 35, (4, 256))),
        cols=1280,
        tokens=64,
        stride=105,
        halves=True,
        grid=5,
    ),
    "gated": Product(2 * (Matrix("Q8_0", 70, (4, 256)),), 256, 64, stride=72, offset=2, gate="Silu"),
    "gated_256": Product(
        2 * (Matrix("Q6_K", 66, (2, 256), bias=True),), 512, 256, 66, block_tokens=256, gate="GeluTanh"
    ),
    "gated_halves": Product(2 * (Matrix("BF16", 36, (1, 96)),), 576, 64, 36, halves=True, gate="Gelu"),
    "rest": Product(tuple(Matrix(name, 32, (2, 256)) for name in REST), cols=512, tokens=64, stride=32 * len(REST)),
    "tensors": Product(tuple(Matrix(name, 32, (2, 256)) for name in TENSORS), cols=512, tokens=64, stride=64),
    "few_bits": Product(
        tuple(Matrix(name, 32, (2, 256)) for name in FEW_BITS), cols=512, tokens=64, stride=32 * len(FEW_BITS)
    ),
    "q8_0": Product((Matrix("Q8_0", 192, (2, 256)),), cols=512, tokens=256, stride=192, block_tokens=256),
    "q8_0_128": Product((Matrix("Q8_0", 192, (2, 256)),), cols=512, tokens=256, stride=192, block_tokens=128),
    "q8_0_small": Product((Matrix("Q8_0", 192, (2, 256)),), cols=512, tokens=64, stride=192),
    "q8_0_small_64": Product((Matrix("Q8_0", 192, (2, 256)),), cols=512, tokens=64, stride=192, block_rows=64),
    "q8_0_small_192": Product((Matrix("Q8_0", 192, (2, 256)),), cols=512, tokens=64, stride=192, block_rows=192),
    "gated_192": Product(2 * (Matrix("Q8_0", 100, (4, 128)),), 384, 64, stride=100, block_rows=192, gate="Silu"),
    "odd": Product(
        (Matrix("Q8_0", 35, (4, 224), bias=True),), cols=224, tokens=64, stride=39, offset=3, accumulate=True, scale=0.5
    ),
    "q4_k": Product((Matrix("Q4_K", 70, (4, 256)),), cols=768, tokens=72, stride=80, offset=2, accumulate=True),
    "q6_k": Product((Matrix("Q6_K", 64, (2, 256)),), cols=512, tokens=64, stride=64, scale=0.125, cap=2.0),
    "f16": Product((Matrix("F16", 66, (2, 128)),), cols=256, tokens=64, stride=66),
    "bf16": Product((Matrix("BF16", 130, (1, 96)),), cols=96, tokens=64, stride=130),
    "fp8_edge": Product(
        (Matrix("FP8_BLOCKS", 40, (4, 160)), Matrix("FP8_ROWS", 33, (4, 160), bias=True)),
        cols=160,
        tokens=64,
        stride=73,
    ),
    "several": Product(
        (
            Matrix("Q4_K", 140, (4, 256)),
            Matrix("Q4_K", 64, (4, 256), bias=True),
            Matrix("Q6_K", 32, (2, 256), bias=True),
        ),
        cols=256,
        tokens=64,
        stride=236,
    ),
}

# Each also by warps: wide and narrow tiles, one or two times 16 rows of a warp, both kinds of sums.
BY_WARPS = {
    "rest": (Warps(2, 1, half_sums=True), 64),
    "tensors": (Warps(2, 1, half_sums=True), 64),
    "few_bits": (Warps(1, 2, half_sums=True), 64),
    "q8_0": (Warps(2, 2, half_sums=True), 128),
    "q8_0_128": (Warps(1, 1, half_sums=True), 64),
    "q8_0_small": (Warps(4, 1, half_sums=True), 64),
    "odd": (Warps(1, 1, half_sums=True), 32),
    "q4_k": (Warps(1, 2, half_sums=True), 32),
    "q6_k": (Warps(2, 2, half_sums=True), 64),
    "f16": (Warps(2, 1, half_sums=False), 64),
    "bf16": (Warps(1, 2, half_sums=False), 64),
    "fp8_edge": (Warps(1, 1, half_sums=True), 32),
    "several": (Warps(2, 1, half_sums=True, warps=16, stages=4), 32),
    "gated": (Warps(1, 2, half_sums=True), 64),
    "gated_256": (Warps(2, 1, half_sums=False), 128),
}
PRODUCTS = BY_WARPGROUPS | {
    f"{name}_by_warps": replace(BY_WARPGROUPS[name], warps=warps, block_tokens=tokens)
    for name, (warps, tokens) in BY_WARPS.items()
}


GATES = {
    "Silu": lambda x: x / (1 + np.exp(-x)),
    "Gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "GeluTanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def source() -> str:
    """All of them as one file."""
    headers = ["stage/gemm_mma", "stage/gemm_wgmma", *(f"layout/{name.lower()}" for name in layouts())]
    lines = [f'#include "imp/{name}.h"' for name in headers]
    lines.append("struct Any { void* p; template <class T> operator T*() const { return static_cast<T*>(p); } };")
    return "\n".join([*lines, *(product.source(name) for name, product in PRODUCTS.items())])


class Kernels:
    """The compiled stages, run in a random order of threads; the check mode's complaint fails the test."""

    def __init__(self, path: Path) -> None:
        self._library, self._shapes = SimLibrary(path), ctypes.CDLL(str(path))

    def run(self, name: str, *arrays: Array | None) -> None:
        x, y, z, threads, shared = (ctypes.c_int * 5).in_dll(self._shapes, f"{name}_shape")
        self._library.configure(order=2, seed=1)
        given = [placed(np.zeros(1, np.float32)) if array is None else array for array in arrays]
        assert self._library.launch(name, given, (x, y, z), threads, shared) == ""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("panels")
    (folder / "panels.cu").write_text(source(), "utf-8")
    return Kernels(compile_sim(folder / "panels.cu", folder, "check"))


def panels_of(x: Array) -> Array:
    """Values [tokens, cols] as panels of halfs, zeros behind the last column."""
    tokens, cols = x.shape
    panels = placed(np.zeros((2 * -(-cols // 128), tokens, 64), np.float16))
    places = values_of(np.arange(panels.size).reshape(panels.shape)).astype(np.int64)[:, :cols]
    panels.reshape(-1)[places] = x
    return panels


def inputs(product: Product, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Panels and factors with NaN from token n on, and the numbers that they mean."""
    x = rng.standard_normal((product.tokens, product.cols)).astype(np.float16)
    factors = (2.0 ** rng.integers(-3, 4, product.tokens)).astype(np.float32)
    x[n:], factors[n:] = np.nan, np.nan
    return panels_of(x), placed(factors), x.astype(np.float64) * factors[:, None]


def weights(product: Product, rng: np.random.Generator) -> tuple[list[Array], list[Array]]:
    """Each matrix packed, and in numbers."""
    planes, meant = [], []
    for matrix in product.matrices:
        fmt = format_named(matrix.format)
        raw = random_rows(fmt, matrix.rows, product.cols, rng)
        layout, tile, _ = matrix.place(product.cols)
        planes.append(placed(layout.pack(fmt, raw, tile)))
        meant.append(fmt.dequantize(raw).astype(np.float64))
    return planes, meant


def biases(product: Product, rng: np.random.Generator) -> list[Array | None]:
    found = [placed(rng.standard_normal(m.rows).astype(np.float32)) for m in product.matrices if m.bias]
    return [*found] or [None]


def multiply(
    kernels: Kernels, name: str, panels: Array, factors: Array, given: Sequence[Array | None], y: Array, n: int
) -> None:
    product = PRODUCTS[name]
    if not product.halves:
        kernels.run(name, panels, factors, *given, None, None, None, None, y, step(n))
        return
    rows = product.block_rows
    left = placed(np.full((product.grid, rows * product.block_tokens), np.nan, np.float32))
    arrived = placed(np.zeros((-(-product.grid // 2), rows // 16), np.uint32))
    kernels.run(name, panels, factors, *given, None, None, left, arrived, y, step(n))
    assert not arrived.any()


def test_every_format_is_multiplied() -> None:
    """But F32, whose weights a half cannot hold."""
    assert {m.format for product in PRODUCTS.values() for m in product.matrices} == set(formats()) - {"F32"}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("n", [1, 60, 10**9], ids=["one", "some", "all"])
def test_product(kernels: Kernels, name: str, n: int) -> None:
    product = PRODUCTS[name]
    n = min(n, product.tokens)
    rng = np.random.default_rng([n, *name.encode()])
    planes, meant = weights(product, rng)
    panels, factors, x = inputs(product, n, rng)
    given = biases(product, rng)
    y = placed(rng.standard_normal((product.tokens, product.stride)).astype(np.float32))
    before = y.copy()
    multiply(kernels, name, panels, factors, [*planes, *given], y, n)

    added = iter(given)
    bias = [next(added) if m.bias else np.zeros(m.rows) for m in product.matrices]
    columns = slice(product.offset, product.offset + product.rows)
    parts = [x[:n] @ w.T + b for w, b in zip(meant, bias, strict=True)]
    # a weight is rounded to a half, as are the scale and the offset that it is made of
    blocks = [np.abs(w).reshape(len(w), -1, 32).max(-1).repeat(32, axis=1) for w in meant]
    bounds = [np.abs(x[:n]) @ block.T * 2.0**-11 + 1e-5 for block in blocks]
    halfs = product.warps is not None and product.warps.half_sums
    if halfs:  # each of a panel's four steps is rounded, and no sum is larger than all of its products together
        bounds = [b + 4 * np.abs(x[:n]) @ np.abs(w).T * 2.0**-11 for b, w in zip(bounds, meant, strict=True)]
    if product.gate:
        (gate, up), (of_gate, of_up) = parts, bounds
        gates = GATES[product.gate](gate)
        sums = gates * up
        # no gate's slope is above 1.13
        bound = 1.13 * of_gate * (np.abs(up) + of_up) + np.abs(gates) * of_up + 1e-5 * np.abs(sums)
    else:
        sums = np.concatenate(parts, axis=1) * product.scale
        bound = np.concatenate(bounds, axis=1) * product.scale
    exact = product.cap * np.tanh(sums / product.cap) if product.cap else sums.copy()
    exact += before[:n, columns] if product.accumulate else 0
    error = y[:n, columns] - exact
    assert np.all(np.abs(error) <= bound)
    assert np.sqrt(np.mean(error**2)) < (1e-3 if halfs or product.gate else 5e-4) * np.sqrt(np.mean(sums**2))
    y[:n, columns] = before[:n, columns]
    np.testing.assert_array_equal(y, before)


@pytest.mark.parametrize(
    ("kind", "by", "few"),
    [
        ("q8_0", "", ("small", "small_64", "small_192")),
        ("q8_0", "_by_warps", ("small",)),
        ("halves", "", ("small", "small_64", "small_64_apart")),
    ],
)
def test_no_bit_depends_on_the_chunk(kernels: Kernels, kind: str, by: str, few: tuple[str, ...]) -> None:
    """Whatever else is in it, and however many tokens and rows a tile has."""
    big = PRODUCTS[kind + by]
    rng = np.random.default_rng(5)
    planes, _ = weights(big, rng)
    x = rng.standard_normal((256, big.cols)).astype(np.float16)
    factors = rng.uniform(0.5, 2, 256).astype(np.float32)
    whole, other = (placed(np.zeros((256, big.stride), np.float32)) for _ in range(2))
    multiply(kernels, kind + by, panels_of(x), placed(factors), [*planes, None], whole, 256)
    multiply(kernels, f"{kind}_128{by}", panels_of(x), placed(factors), [*planes, None], other, 256)
    np.testing.assert_array_equal(whole, other)
    for (first, n), small in itertools.product(((0, 64), (37, 1), (90, 19)), few):
        part = placed(np.zeros((64, big.stride), np.float32))
        chunk = [np.resize(a[first : first + n], (64, *a.shape[1:])) for a in (x, factors)]
        multiply(kernels, f"{kind}_{small}{by}", panels_of(chunk[0]), placed(chunk[1]), [*planes, None], part, n)
        np.testing.assert_array_equal(part[:n], whole[first : first + n])
