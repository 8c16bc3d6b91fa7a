"""Products of a few rows on the CPU, against float64 numpy; no bit of a row depends on how many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import compile_sim
from test_panel_stages import BY_WARPGROUPS, Matrix, Product, biases, panels_of, weights
from test_prefill_stages import Kernels, fragment_places, placed, step

from imp_codegen.formats import formats
from imp_codegen.layouts import layouts

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch(Product):
    """A launch of a few rows, which are the product's tokens."""

    cta_warps: int = 2
    slots: int = 2
    stages: int = 3
    stretches: int = 2
    ends = ("y", "step", "partial", "arrived")
    kind: ClassVar[str] = "Batch"

    def own(self) -> str:
        """The fields that only this kind has."""
        return f".slots = {self.slots}, .stages = {self.stages}"

    @property
    def sharing(self) -> int:
        """Warps of a tile of rows."""
        return self.cta_warps

    def stage(self) -> str:
        product = (
            f".cols = {self.cols}, .rows = {self.tokens}, .stretches = {self.stretches}, "
            f".stride = {self.stride}, .offset = {self.offset}, .accumulate = {str(self.accumulate).lower()}, "
            f".biased = {self.biased}, .scale = {self.scale}f, .cap = {self.cap}f"
        )
        matrices = ", ".join(matrix.place(self.cols)[2] for matrix in self.matrices)
        config = f"imp::{self.kind}Config{{.warps = {self.cta_warps}, {self.own()}}}"
        return f"imp::Gemm{self.kind}<imp::BatchProduct{{{product}}}, {config}, {matrices}>"


@dataclass(frozen=True)
class Held(Batch):
    """One whose activations stay in registers; of units of 16 rows."""

    buffers: int = 2
    fold: int = 1
    kind = "Held"
    sharing = 1

    def own(self) -> str:
        return f".slots = {self.slots}, .buffers = {self.buffers}, .fold = {self.fold}"


@dataclass(frozen=True)
class Wgmma(Batch):
    """One by warpgroups, of 64 rows of a matrix each."""

    chain: int = 1
    fold: int = 1
    stages: int = 3
    stays: bool = False
    kind = "BatchWgmma"

    def own(self) -> str:
        ring = f".stages = {self.stages}, .stays = {str(self.stays).lower()}"
        return f"{ring}, .chain = {self.chain}, .fold = {self.fold}"


REST, TENSORS, FEW_BITS = (
    BY_WARPGROUPS[name] for name in ("rest", "tensors", "few_bits")
)  # that have no case of their own
BIG = Batch((Matrix("Q8_0", 192, (2, 256)),), cols=1280, tokens=8, stride=192, stretches=4)
HELD = Held((Matrix("Q8_0", 208, (2, 256)),), cols=768, tokens=8, stride=208, stretches=3)
SEVERAL = (
    Matrix("Q4_K", 140, (4, 256)),
    Matrix("Q4_K", 64, (4, 256), bias=True),
    Matrix("Q6_K", 32, (2, 256), bias=True),
)
ADDED = {"cols": 1280, "stride": 39, "offset": 3, "accumulate": True, "scale": 0.5, "stretches": 1}
BATCHES = {
    "rest": Batch(REST.matrices, REST.cols, tokens=8, stride=REST.stride),
    "tensors": Batch(TENSORS.matrices, TENSORS.cols, tokens=8, stride=TENSORS.stride),
    "few_bits": Batch(FEW_BITS.matrices, FEW_BITS.cols, tokens=8, stride=FEW_BITS.stride),
    "q8_0": BIG,
    "held": HELD,
    "held_16": Held((Matrix("Q8_0", 35, (4, 256), bias=True),), tokens=16, cta_warps=5, slots=3, buffers=1, **ADDED),
    "held_several": Held(SEVERAL, cols=768, tokens=8, stride=236, stretches=3, buffers=3, cap=2.0),
    "held_order": replace(HELD, cols=1024, stretches=2, cta_warps=4, fold=2, grid=4),
    "wgmma_order": Wgmma(HELD.matrices, cols=1024, tokens=64, stride=208, stretches=4, fold=2, cta_warps=4, grid=4),
    "wgmma_run": Wgmma(
        (*SEVERAL[:2], Matrix("Q6_K", 20, (2, 256)), Matrix("Q4_K", 30, (4, 256))),
        cols=512,
        tokens=32,
        stride=254,
        stretches=2,
        cta_warps=4,
    ),
    "wgmma_stays": Wgmma(
        SEVERAL, cols=1024, tokens=32, stride=236, stretches=2, cta_warps=4, chain=2, stages=2, stays=True, grid=2
    ),
    "wgmma": Wgmma((Matrix("Q8_0", 208, (2, 256)),), cols=768, tokens=64, stride=208, stretches=3, cta_warps=4),
    "wgmma_32": Wgmma((Matrix("Q8_0", 35, (4, 256), bias=True),), tokens=32, cta_warps=8, chain=2, **ADDED),
    "wgmma_several": Wgmma(SEVERAL, cols=768, tokens=64, stride=236, stretches=3, cap=2.0, cta_warps=8),
    "q8_0_16": replace(BIG, tokens=16, cta_warps=4),
    "q8_0_32": replace(BIG, tokens=32, slots=1),
    "q8_0_64": replace(BIG, tokens=64, slots=3),
    "odd": Batch(
        (Matrix("Q8_0", 35, (4, 224), bias=True),),
        **{"cols": 224, "tokens": 8, "stride": 39, "offset": 3, "accumulate": True, "scale": 0.5},
    ),
    "q4_k": Batch((Matrix("Q4_K", 70, (4, 256)),), cols=768, tokens=16, stride=80, offset=2, accumulate=True, slots=3),
    "q6_k": Batch((Matrix("Q6_K", 64, (2, 256)),), cols=512, tokens=8, stride=64, scale=0.125, cap=2.0, stages=1),
    "f16": Batch((Matrix("F16", 66, (2, 128)),), cols=256, tokens=8, stride=66, stretches=1, slots=1),
    "bf16": Batch((Matrix("BF16", 130, (1, 96)),), cols=96, tokens=8, stride=130, stretches=1),
    "fp8_edge": Batch(
        (Matrix("FP8_BLOCKS", 40, (4, 160)), Matrix("FP8_ROWS", 33, (4, 160), bias=True)),
        cols=160,
        tokens=8,
        stride=73,
        stretches=1,
    ),
    "several": Batch(SEVERAL, cols=256, tokens=8, stride=236),
}


def source() -> str:
    """All of them as one file."""
    headers = [
        *(f"stage/gemm_{kind}" for kind in ("batch", "held", "batch_wgmma")),
        *(f"layout/{name.lower()}" for name in layouts()),
    ]
    lines = [f'#include "imp/{name}.h"' for name in headers]
    lines.append("struct Any { void* p; template <class T> operator T*() const { return static_cast<T*>(p); } };")
    return "\n".join([*lines, *(batch.source(name) for name, batch in BATCHES.items())])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("batch")
    (folder / "batch.cu").write_text(source(), "utf-8")
    return Kernels(compile_sim(folder / "batch.cu", folder))


def fragments_of(x: Array) -> Array:
    """Values [rows, cols] as fragments of halfs, zeros behind the last column."""
    rows, cols = x.shape
    places = fragment_places(rows, cols)
    fragments = placed(np.zeros(places.size, np.float16))
    fragments[places[:, :cols]] = x
    return fragments


def inputs(batch: Batch, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Halfs and factors of all rows, NaN from row n on."""
    x = rng.standard_normal((batch.tokens, batch.cols)).astype(np.float16)
    factors = (2.0 ** rng.integers(-3, 4, batch.tokens)).astype(np.float32)
    x[n:], factors[n:] = np.nan, np.nan
    return x, factors


def multiply(
    kernels: Kernels, name: str, x: Array, factors: Array, given: list[Array | None], y: Array, n: int
) -> None:
    batch = BATCHES[name]
    warps = sum(-(-m.rows // (batch.sharing * 16)) for m in batch.matrices) * batch.sharing
    partial = placed(np.full(warps * batch.stretches * batch.tokens * 16, np.nan, np.float32))
    arrived = placed(np.zeros(warps, np.uint32))
    encoded = panels_of(x) if isinstance(batch, Wgmma) else fragments_of(x)
    kernels.run(name, encoded, placed(factors), *given, y, step(n), partial, arrived)
    assert not arrived.any()


def test_every_format_is_multiplied() -> None:
    """But F32, whose weights a half cannot hold."""
    assert {m.format for batch in BATCHES.values() for m in batch.matrices} == set(formats()) - {"F32"}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("n", [1, 5, 10**9], ids=["one", "some", "all"])
def test_product(kernels: Kernels, name: str, n: int) -> None:
    batch = BATCHES[name]
    n = min(n, batch.tokens)
    rng = np.random.default_rng([n, *name.encode()])
    planes, meant = weights(batch, rng)
    x, factors = inputs(batch, n, rng)
    given = biases(batch, rng)
    y = placed(rng.standard_normal((batch.tokens, batch.stride)).astype(np.float32))
    before = y.copy()
    multiply(kernels, name, x, factors, [*planes, *given], y, n)

    w = np.concatenate(meant)
    added = iter(given)
    bias = np.concatenate([next(added) if m.bias else np.zeros(m.rows) for m in batch.matrices])
    columns = slice(batch.offset, batch.offset + batch.rows)
    exact_x = x[:n].astype(np.float64) * factors[:n, None]
    sums = (exact_x @ w.T + bias) * batch.scale
    exact = batch.cap * np.tanh(sums / batch.cap) if batch.cap else sums.copy()
    exact += before[:n, columns] if batch.accumulate else 0
    # a weight is rounded to a half, as are the scale and the offset that it is made of
    blocks = np.abs(w).reshape(len(w), -1, 32).max(-1).repeat(32, axis=1)
    bound = np.abs(exact_x) @ blocks.T * 2.0**-11 * batch.scale + 1e-5
    error = y[:n, columns] - exact
    assert np.all(np.abs(error) < bound)
    assert np.sqrt(np.mean(error**2)) < 5e-4 * np.sqrt(np.mean(sums**2))
    y[:n, columns] = before[:n, columns]
    np.testing.assert_array_equal(y, before)


def test_no_bit_depends_on_where_activations_stay(kernels: Kernels) -> None:
    """Chains and stretches add up in one order, by a tree that is not a plain row of them."""
    rng = np.random.default_rng(6)
    held, wgmma = BATCHES["held_order"], BATCHES["wgmma_order"]
    planes, _ = weights(held, rng)
    x, factors = inputs(wgmma, 64, rng)
    whole = placed(np.zeros((64, held.stride), np.float32))
    multiply(kernels, "wgmma_order", x, factors, [*planes, None], whole, 64)
    part = placed(np.zeros((8, held.stride), np.float32))
    multiply(kernels, "held_order", x[40:48], factors[40:48], [*planes, None], part, 8)
    np.testing.assert_array_equal(part, whole[40:48])


def test_no_bit_depends_on_how_many_there_are(kernels: Kernels) -> None:
    """Nor on how many rows of the matrix a CTA has, or where activations lie."""
    rng = np.random.default_rng(5)
    planes, _ = weights(BIG, rng)
    x, factors = inputs(BATCHES["q8_0_64"], 64, rng)
    whole = placed(np.zeros((64, BIG.stride), np.float32))
    multiply(kernels, "q8_0_64", x, factors, [*planes, None], whole, 64)
    for name, first, n in (("q8_0", 0, 8), ("q8_0", 13, 1), ("q8_0_16", 40, 11), ("q8_0_32", 7, 32)):
        rows = BATCHES[name].tokens
        part = placed(np.zeros((rows, BIG.stride), np.float32))
        some = [np.resize(a[first : first + n], (rows, *a.shape[1:])) for a in (x, factors)]
        multiply(kernels, name, some[0], some[1], [*planes, None], part, n)
        np.testing.assert_array_equal(part[:n], whole[first : first + n])
