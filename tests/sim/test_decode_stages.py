"""The decode stages on the CPU in check mode (random thread order, races, bounds), against numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from activations import gated
from half_products import half_products
from imp_codegen.formats import format_named, formats
from imp_codegen.layouts import Layout, Tile, layouts
from imp_codegen.reference import round_activations
from random_rows import place, random_rows

Array = NDArray[Any]
WARPS, GRID = 3, 2
STEEPEST = 1.13  # slope of an activation


@dataclass(frozen=True)
class Product:
    """One kernel: matrices (format, rows) that share a vector of `cols`, and what becomes of the rows.

    `biased`: which matrices have a bias. `post`: the vector is a residual stream plus the norm of a branch.
    """

    name: str
    cols: int
    matrices: tuple[tuple[str, int], ...]
    norm: bool = False
    weighted: bool = True
    post: bool = False
    scaled: bool = False  # that sum
    biased: tuple[int, ...] = ()
    epilogue: str = "StoreRows"
    activation: str = "Silu"
    scale: float = 1.0
    cap: float = 0.0
    in_place: bool = False

    def place(self, number: int) -> tuple[Layout, Tile, str]:
        name, rows = self.matrices[number]
        return place(format_named(name), rows, self.cols)

    def source(self) -> str:
        places = [self.place(i) for i in range(len(self.matrices))]
        q8 = any(layout.activation == "q8" for layout, _, _ in places)
        halfs = any(layout.activation == "f16" for layout, _, _ in places)
        dense = any(layout.activation == "bf16" for layout, _, _ in places) and not self.in_place
        flag = {True: "true", False: "false"}
        types = [cpp for _, _, cpp in places]
        encode = (
            f"imp::EncodeConfig{{.cols = {self.cols}, .warps = {WARPS}, .q8 = {flag[q8]}, .halfs = {flag[halfs]}, "
            f".dense = {flag[dense]}, "
            f".norm = {flag[self.norm]}, .eps = 1e-5f, .weighted = {flag[self.weighted]}, .post = {flag[self.post]}, "
            f".post_eps = 1e-3f, .scaled = {flag[self.scaled]}}}"
        )
        gemv = f"imp::GemvConfig{{.warps = {WARPS}, .grid = {GRID}, .slots = 2}}"
        planes = ", ".join(f"const std::uint8_t* w{i}" for i in range(len(types)))
        names = ", ".join(f"w{i}" for i in range(len(types)))
        mask = sum(1 << i for i in self.biased)
        parameters, values = ["float* y"], [".y = y"]
        epilogue = f"imp::{self.epilogue}<{mask}>"
        if self.epilogue == "AddRows":
            epilogue = f"imp::AddRows<{mask}, {self.scale}f>"
        if self.epilogue == "StoreGated":
            epilogue = f"imp::StoreGated<{mask}, imp::{self.activation}>"
            parameters, values = [*parameters, "const float* up"], [*values, ".up = up"]
        if self.epilogue == "StoreLogits":
            epilogue = (
                f"imp::StoreLogits<imp::LogitsConfig{{.warps = {WARPS}, .biased = {mask}, .scale = {self.scale}f, "
                f".cap = {self.cap}f}}>"
            )
            parameters += ["float* value", "std::uint32_t* best"]
            values = [".logits = y", ".best_value = value", ".best = best"]
        parameters += [f"const float* b{i}" for i in self.biased]
        values.append(f".bias = {{{', '.join(f'b{i}' for i in self.biased) or 'nullptr'}}}")
        stage = f"imp::Gemv<{gemv}, {encode}, {epilogue}, {', '.join(types)}>"
        if self.epilogue == "gated":
            epilogue = f"imp::StoreRows<{mask}>"
            stage = f"imp::GatedGemv<{gemv}, {encode}, {epilogue}, {', '.join(types)}, imp::{self.activation}>"
        x, given = "x", "const float* x"
        if self.post:
            x, given = "{x, branch, post, sum}", "const float* x, const float* branch, const float* post, float* sum"
            if self.scaled:
                x, given = "{x, branch, post, sum, scale}", given + ", const float* scale"
        g = "g"
        if not self.weighted:
            given, g = given + ", const float*", "nullptr"
        else:
            given += ", const float* g"
        return (
            f'using {self.name}_t = {stage};\nextern "C" {{ int {self.name}_shared = {self.name}_t::kSharedBytes; }}\n'
            f'extern "C" __global__ void {self.name}({given}, {", ".join(parameters)}, {planes}) '
            f"{{ {self.name}_t::run({{{x}, {g}, {{{', '.join(values)}}}, {{{names}}}}}); }}\n"
        )


# Every format in one kernel but those that others' layouts hold, for which it has no room, and those of few bits; where
# blocks are shorter, in rows that are no whole superblocks.
TENSORS = tuple((name, 3) for name in formats() if name.endswith("4_TENSORS"))
FEW_BITS = tuple((name, 5) for name in formats() if name.startswith(("IQ1", "IQ2", "IQ3", "TQ")))
EVERY = tuple((name, 3) for name in formats() if (name, 3) not in TENSORS and (name, 5) not in FEW_BITS)
SHORT = tuple((name, 2) for name, fmt in formats().items() if fmt.block == 32)

PRODUCTS = (
    Product("every", 1536, EVERY, norm=True),
    Product("tensors", 1536, TENSORS, norm=True),
    Product("few_bits", 1536, FEW_BITS, norm=True),
    Product("short_rows", 32 * 131, SHORT),
    Product("gated_short", 2880, (SHORT[0], SHORT[-1]), norm=True, epilogue="gated"),
    Product("q8_small", 64, (("Q8_0", 5),)),
    Product("q8_norm", 288, (("Q8_0", 33), ("Q8_0", 7)), norm=True),
    Product("q8_wide", 4352, (("Q8_0", 3),), epilogue="AddRows"),
    Product("q4_two_tiles", 8192, (("Q4_K", 3),), norm=True),
    Product("mixed", 1536, (("Q4_K", 9), ("Q6_K", 11), ("Q8_0", 4), ("F16", 6)), norm=True, biased=(0, 1, 2, 3)),
    Product("q4_row", 11008, (("Q4_K", 3),), epilogue="AddRows"),
    Product("q6_row", 9728, (("Q6_K", 2), ("Q4_K", 3)), norm=True),
    Product("q8_cut", 11008, (("Q8_0", 3),)),
    Product("q8_odd", 32 * 131, (("Q8_0", 5),), norm=True),
    Product("f32_row", 2144, (("F32", 3),), epilogue="AddRows"),
    Product("bf16_odd", 16 * 129, (("BF16", 5),), norm=True),
    Product("fp8", 640, (("FP8_BLOCKS", 5),)),
    Product("fp8_edge", 32 * 65, (("FP8_BLOCKS", 5), ("FP8_ROWS", 3)), norm=True),
    Product("fp8_long_edge", 10944, (("FP8_BLOCKS", 3),), epilogue="AddRows"),
    Product("in_place", 9728, (("F16", 5),), epilogue="AddRows", in_place=True),
    Product("in_place_f32", 3584, (("F32", 3),), in_place=True),
    Product("gated_row", 9728, (("Q4_K", 3), ("Q4_K", 3)), norm=True, epilogue="gated"),
    Product("q6", 256, (("Q6_K", 17),), epilogue="AddRows", biased=(0,)),
    Product("f32", 96, (("F32", 10),)),
    Product("f16", 640, (("F16", 10),), norm=True),
    Product("bf16", 5120, (("BF16", 3),)),
    Product("gated", 512, (("Q8_0", 13), ("Q8_0", 13)), norm=True, epilogue="gated"),
    Product("gated_mixed", 2048, (("Q4_K", 6), ("BF16", 6)), norm=True, epilogue="gated"),
    Product("logits", 256, (("Q6_K", 101),), norm=True, epilogue="StoreLogits"),
    Product("some_biased", 256, (("Q8_0", 9), ("Q8_0", 7), ("Q4_K", 6)), norm=True, biased=(0, 2)),
    Product("scaled", 512, (("Q8_0", 30),), epilogue="AddRows", biased=(0,), scale=0.22),
    Product("gelu", 512, (("Q8_0", 13), ("Q8_0", 13)), norm=True, epilogue="gated", activation="Gelu", biased=(1,)),
    Product("gelu_tanh", 96, (("F32", 13), ("F32", 13)), epilogue="gated", activation="GeluTanh", biased=(0, 1)),
    Product("capped", 256, (("Q8_0", 101),), norm=True, epilogue="StoreLogits", cap=30.0),
    Product("scaled_logits", 96, (("BF16", 101),), epilogue="StoreLogits", biased=(0,), scale=0.125, cap=20.0),
    Product("unweighted", 288, (("Q8_0", 33),), norm=True, weighted=False),
    Product("post", 288, (("Q8_0", 33), ("F32", 7)), norm=True, post=True),
    Product("post_scaled", 288, (("Q8_0", 33),), norm=True, post=True, scaled=True),
    Product("clamped_silu", 96, (("F32", 13), ("F32", 13)), epilogue="gated", activation="ClampedSilu", biased=(0, 1)),
    Product("gates", 288, (("Q8_0", 33),), epilogue="StoreGated", activation="GeluTanh", biased=(0,)),
    Product("gates_of_sum", 1120, (("BF16", 9),), post=True, scaled=True, epilogue="StoreGated", activation="Silu"),
    Product("post_alone", 1120, (("Q8_0", 9), ("Q8_0", 5)), post=True),
    Product("post_wide", 5376, (("Q4_K", 3), ("Q4_K", 3)), norm=True, post=True, epilogue="gated"),
    Product("post_logits", 640, (("F16", 101),), norm=True, post=True, epilogue="StoreLogits", cap=30.0),
)  # fmt: skip

HEADERS = (*(f"layout/{name.lower()}" for name in layouts()), "stage/gemv")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("decode")
    includes = "".join(f'#include "imp/{header}.h"\n' for header in HEADERS)
    (folder / "decode.cu").write_text(includes + "".join(p.source() for p in PRODUCTS), "utf-8")
    return SimLibrary(compile_sim(folder / "decode.cu", folder, "check"))


def run(library: SimLibrary, entry: str, buffers: list[Array], grid: int, block: int, seed: int) -> list[Array]:
    """Launch in a random thread order; the check mode's complaint fails the test."""
    library.configure(order=2, seed=seed)
    held = [aligned(buffer) for buffer in buffers]
    shared = library.integer(f"{entry}_shared")
    assert library.launch(entry, held, (grid, 1, 1), block, shared) == ""
    return held


def rms_norm(x: Array, eps: float) -> Array:
    """In float64, without a weight."""
    wide = x.astype(np.float64)
    normed: Array = wide / np.sqrt(np.mean(np.square(wide)) + eps)
    return normed


def doubtful_steps(x: Array) -> Array:
    """float64[cols]: a step where an int8 code of x lies so near a half that it may round either way, else 0."""
    blocks = x.astype(np.float64).reshape(-1, 32)
    steps = np.abs(blocks).max(axis=1, keepdims=True) / 127
    parts = np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps > 0) % 1
    doubtful: Array = np.where(np.abs(parts - 0.5) < 1e-3, steps, 0).reshape(-1)
    return doubtful


def test_every_layout_is_multiplied() -> None:
    assert {p.place(i)[0].name for p in PRODUCTS for i in range(len(p.matrices))} == set(layouts())


@pytest.mark.parametrize("cols", [640, 10944])  # in tiles of whole warps' vectors, and too long for registers
def test_halfs_have_the_range_of_floats(library: SimLibrary, cols: int) -> None:
    name, rows = {640: ("fp8", 5), 10944: ("fp8_long_edge", 3)}[cols]
    rng = np.random.default_rng(cols)
    fmt = format_named("FP8_BLOCKS")
    stored = random_rows(fmt, rows, cols, rng)
    layout, tile, _ = place(fmt, rows, cols)
    plane = layout.pack(fmt, stored, tile)

    def product(x: Array) -> Array:
        return run(library, name, [x.astype(np.float32), x, np.zeros(rows, np.float32), plane], GRID, WARPS * 32, 0)[2]

    x = rng.standard_normal(cols).astype(np.float32)
    usual = product(x)
    assert np.abs(usual).max() > 0
    for power in (-80, 60):  # a scale is a power of two, so nothing else is rounded
        np.testing.assert_array_equal(product(np.ldexp(x, power)), np.ldexp(usual, power))
    assert not product(np.full(cols, 1e-34, np.float32)).any()
    for strange in (np.inf, -np.inf, np.nan):
        x[cols - 7] = strange
        assert not np.isfinite(product(x)).any()


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
@example(seed=100000001)  # of `capped` a code lies on a half
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_product(library: SimLibrary, product: Product, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(product.cols) * np.exp(rng.uniform(-3, 3, product.cols))).astype(np.float32)
    g = rng.uniform(0.5, 1.5, product.cols).astype(np.float32)
    branch = (rng.standard_normal(product.cols) * 7).astype(np.float32)
    post = rng.uniform(-1.5, 1.5, product.cols).astype(np.float32)
    stream = x.astype(np.float64)
    if product.post:
        stream = (stream + rms_norm(branch, 1e-3) * post) * (0.75 if product.scaled else 1)
    normed = rms_norm(stream, 1e-5) * (g if product.weighted else 1) if product.norm else stream
    raw = normed.astype(np.float32)
    packed, expected, doubts = [], [], []
    biases = []
    for i, (name, rows) in enumerate(product.matrices):
        fmt = format_named(name)
        stored = random_rows(fmt, rows, product.cols, rng)
        layout, tile, _ = product.place(i)
        packed.append(layout.pack(fmt, stored, tile))
        given_x = round_activations(raw) if layout.activation == "q8" else raw
        weights = fmt.dequantize(stored).astype(np.float64)
        expected.append(half_products(fmt, stored, raw) if layout.activation == "f16" else weights @ given_x)
        doubts.append(np.abs(weights) @ (doubtful_steps(raw) if layout.activation == "q8" else 0 * raw))
        if i in product.biased:
            biases.append(rng.standard_normal(rows).astype(np.float32) * 3)
            expected[-1] = expected[-1] + biases[-1]
    start = rng.standard_normal(sum(len(e) for e in expected)).astype(np.float32)
    extra = [np.zeros(GRID, np.float32), np.zeros(GRID, np.uint32)] if product.epilogue == "StoreLogits" else []
    if product.epilogue == "gated":
        gate, up = expected
        expected, start = [gated(product.activation, gate, up)], start[: len(gate)]
        factor = up + 1 if product.activation == "ClampedSilu" else up
        doubts = [
            STEEPEST * doubts[0] * (np.abs(factor) + doubts[1])
            + np.abs(gated(product.activation, gate, 0 * up + 1)) * doubts[1]
        ]
    if product.epilogue == "StoreGated":
        extra = [rng.standard_normal(len(start)).astype(np.float32)]
        expected = [gated(product.activation, expected[0], extra[0])]
        doubts = [STEEPEST * doubts[0] * np.abs(extra[0])]
    given = [x, branch, post, np.zeros_like(x)] if product.post else [x]
    given += [np.array([0.75], np.float32)] if product.scaled else []
    found = run(library, product.name, [*given, g, start, *extra, *biases, *packed], GRID, WARPS * 32, seed)
    _, y, *rest = found[len(given) :]
    want = np.concatenate(expected) * product.scale
    if product.cap:
        want = product.cap * np.tanh(want / product.cap)
    if product.epilogue == "AddRows":
        want = want + start
    ends = np.cumsum([len(e) for e in expected])[:-1]
    # A code that rounds the other way is in all rows; a cap is nowhere steeper than 1.
    for found_rows, rows, doubt in zip(np.split(y, ends), np.split(want, ends), doubts, strict=True):
        largest = max(np.abs(rows).max(), 1e-30)  # silu of a very negative gate is below float32
        assert (np.abs(found_rows - rows) <= 1e-4 * largest + product.scale * doubt).all()
    if product.post:
        np.testing.assert_allclose(found[3], stream, rtol=1e-6, atol=1e-6 * np.abs(stream).max())
        assert not (found[3].view(np.uint32) & 1).any()
    if product.epilogue == "StoreLogits":
        best_value, best = rest[:2]
        winner = best[np.argmax(best_value)]
        assert winner == np.argmax(y)
        assert best_value.max() == y.max()
