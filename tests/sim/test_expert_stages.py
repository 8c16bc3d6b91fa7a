"""The experts' stages on the CPU in check mode (random thread order, races, bounds), several rows, against numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from activations import gated as gated_truth
from imp_codegen.formats import format_named
from imp_codegen.layouts import Layout, Tile, choose_tile, layout_for
from imp_codegen.reference import round_activations
from random_rows import place, random_rows

Array = NDArray[Any]
WARPS, GRID, ROWS = 3, 5, 7  # five rows of a CTA each, then two that share five


@dataclass(frozen=True)
class Experts:
    """Gate, up and down of `count` experts, `used` of them: [width, hidden] twice, [hidden, width]; a format each."""

    name: str
    hidden: int
    width: int
    count: int
    used: int
    formats: tuple[str, str, str]
    normalise: bool = True
    activation: str = "Silu"
    biased: tuple[int, ...] = ()
    in_place: bool = False  # the down product's vector
    groups: tuple[int, int] = (1, 1)  # the second of them used
    sigmoid: bool = False  # and corrections
    scale: float = 1.0
    scaled: bool = False  # each expert's shares
    added: bool = True  # their sum, to what is there

    def place(self, number: int) -> tuple[Layout, Tile, str]:
        rows, cols = (self.width, self.hidden) if number < 2 else (self.hidden, self.width)
        fmt = format_named(self.formats[number])
        return place(fmt, rows, cols, choose_tile(layout_for(fmt, rows, cols, ()), cols, rows))

    def encode(self, cols: int, numbers: tuple[int, ...], *, norm: bool, in_place: bool = False) -> str:
        kinds = {self.place(number)[0].activation for number in numbers}
        fields = {"q8": "q8" in kinds, "halfs": "f16" in kinds, "dense": "bf16" in kinds and not in_place, "norm": norm}
        words = ", ".join(f".{name} = {str(value).lower()}" for name, value in fields.items())
        return f"imp::EncodeConfig{{.cols = {cols}, .warps = {WARPS}, {words}, .eps = 1e-5f}}"

    def source(self) -> str:
        gate, up, down = (self.place(number)[2] for number in range(3))
        gemv = f"imp::GemvConfig{{.warps = {WARPS}, .grid = {GRID}, .slots = 2}}"
        flag = str(self.normalise).lower()
        route = (
            f"imp::RouteConfig{{.experts = {self.count}, .others = 0, .used = {self.used}, .normalise = {flag}, "
            f".sigmoid = {str(self.sigmoid).lower()}, .groups = {self.groups[0]}, .groups_used = {self.groups[1]}, "
            f".scale = {self.scale}f}}"
        )
        wide = self.used * self.width
        first = self.encode(self.hidden, (0, 1), norm=True)
        second = self.encode(wide, (2,), norm=False, in_place=self.in_place)
        mask = sum(1 << number for number in self.biased if number < 2)
        both = ", ".join(("bias_gate", "bias_up")[n] for n in self.biased if n < 2) or "nullptr"
        names = [
            f"const float* {name if n in self.biased else ''}"
            for n, name in enumerate(("bias_gate", "bias_up", "bias"))
        ]
        last = "bias" if 2 in self.biased else "nullptr"
        left = f"imp::AddExperts<{int(2 in self.biased)}, {self.used}, {self.hidden}, 0.5f>"
        left = left if self.added else "imp::StoreExperts<0>"
        return f"""
using {self.name}_a = imp::EachRow<imp::RowStrides{{.x = {self.hidden}, .y = {wide}}}, imp::ExpertGateUp<
    {gemv}, {first}, {route}, imp::StoreExperts<{mask}>, {gate}, {up}, imp::{self.activation}>>;
using {self.name}_b = imp::EachRow<imp::RowStrides{{.x = {wide}, .y = {self.hidden}}}, imp::ExpertDown<
    {gemv}, {second}, {self.used}, {self.count}, {left}, {down}>>;
using {self.name}_c = imp::ExpertDown<{gemv}, {second}, {self.used}, {self.count}, {left}, {down}>;
extern "C" {{
int {self.name}_parts = {self.name}_c::kParts;
int {self.name}_a_shared = {self.name}_a::kSharedBytes;
int {self.name}_b_shared = {self.name}_b::kSharedBytes;
__global__ void {self.name}_gate_up(const float* x, const float* norm, const float* logits, float* route, float* y,
                                    const float* correction, const float* scales,
                                    const std::uint8_t* gate, const std::uint8_t* up,
                                    {names[0]}, {names[1]}, const imp::StepHeader* step) {{
  {self.name}_a::run({{{{x, norm, {{logits, route, correction, scales}}, {{y, {{{both}}}}}, {{gate, up}}}}, step}});
}}
__global__ void {self.name}_down(const float* x, const float* route, float* y, const std::uint8_t* down,
                                 {names[2]}, const imp::StepHeader* step) {{
  {self.name}_b::run({{{{x, nullptr, {{route}}, {{y, {{{last}}}}}, {{down}}}}, step}});
}}
__global__ void {self.name}_down_alone(const float* x, const float* route, float* y, const std::uint8_t* down,
                                       {names[2]}, const imp::StepHeader*) {{
  {self.name}_c::run({{x, nullptr, {{route}}, {{y, {{{last}}}}}, {{down}}}});
}}
}}
"""


CASES = (
    Experts("mixed", 512, 256, 6, 3, ("Q4_K", "BF16", "Q8_0"), activation="GeluTanh", biased=(0, 1, 2), scaled=True),
    Experts("several_tiles", 32, 4352, 3, 2, ("Q8_0", "Q8_0", "Q8_0")),
    Experts("floats", 48, 80, 5, 5, ("F32", "F16", "BF16"), normalise=False, biased=(1,), in_place=True),
    Experts("fp8", 256, 160, 4, 3, ("FP8_BLOCKS", "FP8_ROWS", "FP8_BLOCKS")),
    Experts("many", 64, 32, 300, 8, ("Q8_0", "IQ4_NL", "MXFP4"), added=False),
    Experts("grouped", 32, 32, 42, 5, ("Q8_0", "Q8_0", "Q8_0"), normalise=False, groups=(7, 3), scale=1.5),
    Experts("corrected", 32, 32, 160, 6, ("Q8_0", "Q8_0", "Q8_0"), groups=(8, 4), sigmoid=True, scale=2.5),
    Experts("by_itself", 32, 32, 9, 4, ("Q8_0", "Q8_0", "Q8_0"), normalise=False, sigmoid=True),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("experts")
    headers = (*sorted({f"layout/{case.place(i)[0].name.lower()}" for case in CASES for i in range(3)}),)
    headers = (*headers, "stage/expert_gemv", "stage/each_row")
    includes = "".join(f'#include "imp/{header}.h"\n' for header in headers)
    (folder / "experts.cu").write_text(includes + "".join(case.source() for case in CASES), "utf-8")
    return SimLibrary(compile_sim(folder / "experts.cu", folder, "check"))


def launch(library: SimLibrary, entry: str, shared: str, buffers: list[Array], seed: int) -> list[Array]:
    """In a random thread order; the check mode's complaint fails the test. A row more than there are is asked for."""
    library.configure(order=2, seed=seed)
    held = [aligned(buffer) for buffer in buffers]
    assert library.launch(entry, held, (GRID, -(-(ROWS + 1) // GRID), 1), WARPS * 32, library.integer(shared)) == ""
    return held


def step(rows: int) -> Array:
    return np.array([rows, 0, 0, 0], np.int32)


def chosen(logits: Array, correction: Array, scales: Array, case: Experts) -> tuple[Array, Array]:
    """The experts of each row, and their shares in float64: plainly, expert by expert."""
    wide = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-wide)) if case.sigmoid else np.exp(wide - wide.max(axis=1, keepdims=True))
    if not case.sigmoid:
        scores /= scores.sum(axis=1, keepdims=True)
    count, kept = case.groups
    each, order = case.count // count, []
    for row in scores + correction if case.sigmoid else scores:
        groups = [row[g * each : (g + 1) * each] for g in range(count)]
        worth = [sum(sorted(group)[-2:]) if case.sigmoid else max(group) for group in groups]
        best = sorted(range(count), key=lambda g, worth=worth: (-worth[g], g))[:kept]
        among = [e for g in best for e in range(g * each, (g + 1) * each)]
        order.append(sorted(among, key=lambda e, row=row: (-row[e], e))[: case.used])
    found = np.array(order)
    shares = np.take_along_axis(scores, found, axis=1)
    return found, shares / (shares.sum(axis=1, keepdims=True) if case.normalise else 1) * case.scale * scales[found]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_experts(library: SimLibrary, case: Experts) -> None:
    seed = 5
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((ROWS, case.hidden)) * 3).astype(np.float32)
    norm = rng.uniform(0.5, 1.5, case.hidden).astype(np.float32)
    logits = (rng.integers(-3, 4, (ROWS, case.count)) * np.float32(0.5)).astype(np.float32)  # many are equal
    logits[0, logits[0] == 0] *= -1  # zeros of both signs are equal, too
    correction = np.zeros(case.count, np.float32)
    if case.sigmoid:  # no two alike, as float32 and float64 would not round them alike
        logits = rng.permuted(np.tile(np.linspace(-3, 3, case.count), (ROWS, 1)), axis=1).astype(np.float32)
        correction = rng.uniform(-1, 0.5, case.count).astype(np.float32)
    scales = rng.uniform(0.5, 2, case.count).astype(np.float32) if case.scaled else np.ones(case.count, np.float32)
    planes, weights = [], []
    for number, name in enumerate(case.formats):
        fmt, (layout, tile, _) = format_named(name), case.place(number)
        rows, cols = (case.width, case.hidden) if number < 2 else (case.hidden, case.width)
        stored = random_rows(fmt, case.count * rows, cols, rng)
        planes.append(layout.pack(fmt, stored, tile))
        weights.append(fmt.dequantize(stored).astype(np.float64).reshape(case.count, rows, cols))
    experts, shares = chosen(logits, correction, scales, case)
    biases = [rng.standard_normal((case.count, rows)).astype(np.float32) * (number in case.biased)
              for number, rows in enumerate((case.width, case.width, case.hidden))]  # fmt: skip

    route = np.zeros((ROWS, 2 * case.used), np.float32)
    gated = np.zeros((ROWS, case.used * case.width), np.float32)
    given = [x, norm, logits, route, gated, correction, scales, *planes[:2], *biases[:2], step(ROWS)]
    _, _, _, route, gated, *_ = launch(library, f"{case.name}_gate_up", f"{case.name}_a_shared", given, seed)
    np.testing.assert_array_equal(route[:, : case.used], experts)
    np.testing.assert_allclose(route[:, case.used :], shares, rtol=1e-6)
    normed = x / np.sqrt(np.mean(np.square(x.astype(np.float64)), axis=1, keepdims=True) + 1e-5) * norm
    products = []
    for number in (0, 1):
        q8 = case.place(number)[0].activation == "q8"
        exact = np.einsum(
            "nurc,nc->nur", weights[number][experts], round_activations(normed.astype(np.float32)) if q8 else normed
        )
        products.append(exact + biases[number][experts])
    want = gated_truth(case.activation, *products)
    assert close(gated.reshape(want.shape), want)

    before = rng.standard_normal((ROWS, case.hidden)).astype(np.float32)
    given = [gated, route, before, planes[2], biases[2], step(ROWS)]
    _, _, after, *_ = launch(library, f"{case.name}_down", f"{case.name}_b_shared", given, seed)
    vectors = gated.reshape(ROWS, case.used, case.width)
    vectors = round_activations(vectors) if case.place(2)[0].activation == "q8" else vectors
    made = np.einsum("nuhw,nuw->nuh", weights[2][experts], vectors.astype(np.float64)) + biases[2][experts]
    together = np.einsum("nu,nuh->nh", shares, made)
    want = before + 0.5 * together if case.added else together
    assert close(after, want)

    # A row has the same bits alone.
    for row in range(ROWS):
        one = [
            x[row],
            norm,
            logits[row],
            np.zeros_like(route[0]),
            np.zeros_like(gated[0]),
            correction,
            scales,
            *planes[:2],
            *biases[:2],
            step(1),
        ]
        _, _, _, route_alone, gated_alone, *_ = launch(
            library, f"{case.name}_gate_up", f"{case.name}_a_shared", one, seed
        )
        np.testing.assert_array_equal(route_alone, route[row])
        np.testing.assert_array_equal(gated_alone, gated[row])
        one = [gated[row], route[row], before[row], planes[2], biases[2], step(1)]
        _, _, alone, *_ = launch(library, f"{case.name}_down", f"{case.name}_b_shared", one, seed)
        np.testing.assert_array_equal(alone, after[row])
    # And by the kernel of one row, which encodes a long vector in parts.
    held = [aligned(buffer) for buffer in (gated[0], route[0], before[0], planes[2], biases[2], step(1))]
    shared = library.integer(f"{case.name}_b_shared")
    assert library.launch(f"{case.name}_down_alone", held, (GRID, 1, 1), WARPS * 32, shared) == ""
    np.testing.assert_array_equal(held[2], after[0])


def test_a_long_vector_is_encoded_in_parts(library: SimLibrary) -> None:
    assert {case.name: library.integer(f"{case.name}_parts") for case in CASES[:3]} == {
        "mixed": 1, "several_tiles": 4, "floats": 1,
    }  # fmt: skip


def close(found: Array, want: Array) -> bool:
    """But for a few codes of activations that lie on a half."""
    return bool((np.abs(found - want) <= 4e-3 * np.abs(want).max(axis=-1, keepdims=True)).all())


def test_logits_that_are_no_numbers_choose_experts_that_there_are(library: SimLibrary) -> None:
    case = CASES[2]
    kinds = np.array([[np.nan] * 5, [np.inf, -np.inf, np.nan, 1, 0], [-np.inf] * 5], np.float32)
    logits = np.resize(kinds, (ROWS, 5))
    planes = [np.zeros(case.count * 80 * 48 * size, np.uint8) for size in (4, 2)]
    biases = [np.zeros((case.count, case.width), np.float32)] * 2
    x, norm = np.ones((ROWS, case.hidden), np.float32), np.ones(case.hidden, np.float32)
    outputs = [np.zeros((ROWS, width), np.float32) for width in (2 * case.used, case.used * case.width)]
    given = [x, norm, logits, *outputs, np.zeros(5, np.float32), np.ones(5, np.float32), *planes, *biases, step(ROWS)]
    _, _, _, route, *_ = launch(library, "floats_gate_up", "floats_a_shared", given, 0)
    assert [sorted(row) for row in route[:, :5].tolist()] == [[0, 1, 2, 3, 4]] * ROWS
    assert np.isnan(route[:, 5:]).all()
