"""The decode stages on the CPU in check mode (random thread order, races, bounds), against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from imp_codegen.quant import Bytes, QuantFormat, Tile, choose_tile, format_named, formats
from imp_codegen.reference import round_activations
from imp_runtime.constraint import pack_bits
from imp_runtime.plan import BIASED, MASKED, SAMPLING_DTYPE

Array = NDArray[Any]
WARPS, GRID = 3, 2


@dataclass(frozen=True)
class Product:
    """One kernel: matrices (format, rows) that share a vector of `cols`, and what becomes of the rows."""

    name: str
    cols: int
    matrices: tuple[tuple[str, int], ...]
    norm: bool = False
    biased: bool = False
    epilogue: str = "StoreRows"
    in_place: bool = False

    def tile(self, number: int) -> Tile:
        return choose_tile(format_named(self.matrices[number][0]), self.cols)

    def source(self) -> str:
        q8 = any(name.startswith("Q") for name, _ in self.matrices)
        dense = any(not name.startswith("Q") for name, _ in self.matrices) and not self.in_place
        flag = {True: "true", False: "false"}
        types = []
        for i, (name, rows) in enumerate(self.matrices):
            tile = self.tile(i)
            types.append(f"imp::Matrix<imp::{name}<imp::TileShape{{{tile.rows}, {tile.cols}}}>, {rows}, {self.cols}>")
        encode = (
            f"imp::EncodeConfig{{.cols = {self.cols}, .warps = {WARPS}, .q8 = {flag[q8]}, .dense = {flag[dense]}, "
            f".norm = {flag[self.norm]}, .eps = 1e-5f}}"
        )
        gemv = f"imp::GemvConfig{{.warps = {WARPS}, .grid = {GRID}, .slots = 2}}"
        planes = ", ".join(f"const std::uint8_t* w{i}" for i in range(len(types)))
        names = ", ".join(f"w{i}" for i in range(len(types)))
        if self.epilogue == "gated":
            stage = f"imp::GatedGemv<{gemv}, {encode}, {', '.join(types)}>"
            out, args = "float* y", f"x, g, {{y}}, {names}"
        elif self.epilogue == "StoreLogits":
            stage = f"imp::Gemv<{gemv}, {encode}, imp::StoreLogits<{WARPS}>, {', '.join(types)}>"
            out, args = "float* y, float* value, std::uint32_t* best", f"x, g, {{y, value, best}}, {names}"
        else:
            count = len(types) if self.biased else 0
            stage = f"imp::Gemv<{gemv}, {encode}, imp::{self.epilogue}<{count}>, {', '.join(types)}>"
            out = "".join(["float* y", *(f", const float* b{i}" for i in range(count))])
            args = f"x, g, {{{', '.join(['y', *(f'b{i}' for i in range(count))])}}}, {names}"
        return (
            f'using {self.name}_t = {stage};\nextern "C" {{ int {self.name}_shared = {self.name}_t::kSharedBytes; }}\n'
            f'extern "C" __global__ void {self.name}(const float* x, const float* g, {out}, {planes}) '
            f"{{ {self.name}_t::run({args}); }}\n"
        )


PRODUCTS = (
    Product("q8_small", 64, (("Q8_0", 5),)),
    Product("q8_norm", 288, (("Q8_0", 33), ("Q8_0", 7)), norm=True),
    Product("q8_wide", 4352, (("Q8_0", 3),), epilogue="AddRows"),
    Product("q4_two_tiles", 8192, (("Q4_K", 3),), norm=True),
    Product("mixed", 1536, (("Q4_K", 9), ("Q6_K", 11), ("Q8_0", 4), ("F16", 6)), norm=True, biased=True),
    Product("q4_row", 11008, (("Q4_K", 3),), epilogue="AddRows"),
    Product("q6_row", 9728, (("Q6_K", 2), ("Q4_K", 3)), norm=True),
    Product("q8_cut", 11008, (("Q8_0", 3),)),
    Product("q8_odd", 32 * 131, (("Q8_0", 5),), norm=True),
    Product("f32_row", 2144, (("F32", 3),), epilogue="AddRows"),
    Product("bf16_odd", 16 * 129, (("BF16", 5),), norm=True),
    Product("in_place", 9728, (("F16", 5),), epilogue="AddRows", in_place=True),
    Product("in_place_f32", 3584, (("F32", 3),), in_place=True),
    Product("gated_row", 9728, (("Q4_K", 3), ("Q4_K", 3)), norm=True, epilogue="gated"),
    Product("q6", 256, (("Q6_K", 17),), epilogue="AddRows", biased=True),
    Product("f32", 96, (("F32", 10),)),
    Product("f16", 640, (("F16", 10),), norm=True),
    Product("bf16", 5120, (("BF16", 3),)),
    Product("gated", 512, (("Q8_0", 13), ("Q8_0", 13)), norm=True, epilogue="gated"),
    Product("gated_mixed", 2048, (("Q4_K", 6), ("BF16", 6)), norm=True, epilogue="gated"),
    Product("logits", 256, (("Q6_K", 101),), norm=True, epilogue="StoreLogits"),
)  # fmt: skip

SAMPLE = """
using sample_t = imp::Sample<imp::SampleConfig{.vocab = 203, .parts = 5, .threads = 64, .ring = 8, .advance = true}>;
extern "C" { int sample_shared = sample_t::kSharedBytes; }
extern "C" __global__ void sample(const float* logits, const float* value, const std::uint32_t* best, float* scores,
    const std::int32_t* input, const imp::Sampling* sampling, const std::uint32_t* mask, const float* bias,
    std::int32_t* tokens, std::int32_t* positions, std::uint32_t* seen, std::uint32_t* count, std::uint64_t* ring) {
  sample_t::run({logits, value, best, scores, input, sampling, mask, bias, tokens, positions, seen, count, ring});
}
"""

HEADERS = (*(f"layout/{each.layout.lower()}" for each in formats().values()), "stage/gemv", "stage/sample")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("decode")
    includes = "".join(f'#include "imp/{header}.h"\n' for header in HEADERS)
    (folder / "decode.cu").write_text(includes + "".join(p.source() for p in PRODUCTS) + SAMPLE, "utf-8")
    return SimLibrary(compile_sim(folder / "decode.cu", folder, "check"))


def random_rows(fmt: QuantFormat, rows: int, cols: int, rng: np.random.Generator) -> Bytes:
    """Rows as a file holds them: random codes, finite scales of both signs."""
    raw = rng.integers(0, 256, (rows, fmt.row_bytes(cols)), dtype=np.uint8)
    if fmt.name in ("F32", "F16", "BF16"):
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        wide = values.view(np.uint32)
        stored = {"F32": values, "F16": values.astype(np.float16), "BF16": (wide >> 16).astype(np.uint16)}[fmt.name]
        return np.ascontiguousarray(stored).view(np.uint8).reshape(rows, -1)
    blocks = raw.reshape(-1, fmt.block_bytes)
    scales = (rng.standard_normal((len(blocks), 2)) * 0.01).astype(np.float16)
    at, count = {"Q8_0": (0, 1), "Q4_K": (0, 2), "Q6_K": (208, 1)}[fmt.name]
    blocks[:, at : at + 2 * count] = scales[:, :count].copy().view(np.uint8).reshape(len(blocks), -1)
    return raw


def run(library: SimLibrary, entry: str, buffers: list[Array], grid: int, block: int, seed: int) -> list[Array]:
    """Launch in a random thread order; the check mode's complaint fails the test."""
    library.configure(order=2, seed=seed)
    held = [aligned(buffer) for buffer in buffers]
    shared = library.integer(f"{entry}_shared")
    assert library.launch(entry, held, (grid, 1, 1), block, shared) == ""
    return held


def test_every_format_is_multiplied() -> None:
    assert {name for product in PRODUCTS for name, _ in product.matrices} == set(formats())


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_product(library: SimLibrary, product: Product, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(product.cols) * np.exp(rng.uniform(-3, 3, product.cols))).astype(np.float32)
    g = rng.uniform(0.5, 1.5, product.cols).astype(np.float32)
    packed, expected = [], []
    raw = x * g / np.sqrt(np.mean(np.square(x.astype(np.float64))) + 1e-5) if product.norm else x
    raw = raw.astype(np.float32)
    for i, (name, rows) in enumerate(product.matrices):
        fmt = format_named(name)
        stored = random_rows(fmt, rows, product.cols, rng)
        packed.append(fmt.pack(stored, product.tile(i)))
        given_x = round_activations(raw) if fmt.activation == "q8" else raw
        expected.append(fmt.dequantize(stored).astype(np.float64) @ given_x)
    biases = [rng.standard_normal(rows).astype(np.float32) for _, rows in product.matrices] if product.biased else []
    start = rng.standard_normal(sum(len(e) for e in expected)).astype(np.float32)
    extra = [np.zeros(GRID, np.float32), np.zeros(GRID, np.uint32)] if product.epilogue == "StoreLogits" else []
    if product.epilogue == "gated":
        gate, up = expected
        expected, start = [gate / (1 + np.exp(-gate)) * up], start[: len(gate)]
    buffers = [x, g, start, *biases, *extra, *packed]
    found = run(library, product.name, buffers, GRID, WARPS * 32, seed)
    want = np.concatenate([e + b for e, b in zip(expected, biases, strict=True)] if biases else expected)
    if product.epilogue == "AddRows":
        want = want + start
    # A code may round the other way where x / scale lies on a half: one step of one of many products.
    largest = max(np.abs(want).max(), 1e-30)  # silu of a very negative gate is below float32
    np.testing.assert_allclose(found[2], want, rtol=0, atol=4e-3 * largest)
    assert np.median(np.abs(found[2] - want)) < 1e-4 * largest
    if extra:
        winner = found[4][np.argmax(found[3])]
        assert winner == np.argmax(found[2])
        assert found[3].max() == found[2].max()


def distribution(logits: Array, seen: Array, p: Array, mask: Array, bias: Array) -> Array:
    """Probabilities after bias, penalties, mask, top-k, top-p, min-p and temperature, written for sorted arrays."""
    scores = logits.astype(np.float64) + (bias if p["flags"] & BIASED else 0)
    if p["repetition_penalty"] != 1 or p["frequency_penalty"] or p["presence_penalty"]:
        times = (seen & 0x7FFFFFFF).astype(np.float64)
        repeated = np.where(scores > 0, scores / p["repetition_penalty"], scores * p["repetition_penalty"])
        scores = np.where(seen != 0, repeated, scores)
        scores = scores - np.where(times > 0, times * p["frequency_penalty"] + p["presence_penalty"], 0)
    if p["flags"] & MASKED:
        scores = np.where(mask, scores, -np.inf)
    if p["temperature"] == 0:
        return (np.arange(len(scores)) == np.argmax(scores)).astype(np.float64)
    weights = np.exp(scores - scores.max())
    order = np.argsort(-weights, kind="stable")
    keep = np.ones(len(weights), bool)
    if p["top_k"] > 0:
        keep[order[p["top_k"] :]] = False
    if p["top_p"] < 1:
        kept = np.where(keep, weights, 0)[order]
        before = np.cumsum(kept) - kept
        keep[order[before >= p["top_p"] * kept.sum()]] = False
    keep &= weights >= p["min_p"]
    weights = np.where(keep, weights, 0) ** (1 / float(p["temperature"]))
    return weights / weights.sum()


ANYTHING = np.ones(203, bool)
NO_BIAS = np.zeros(203, np.float32)


def draw(
    library: SimLibrary,
    logits: Array,
    seen: Array,
    p: Array,
    position: int,
    seed: int,
    mask: Array = ANYTHING,
    bias: Array = NO_BIAS,
) -> int:
    assert p.dtype == SAMPLING_DTYPE
    best = np.array([np.argmax(part) for part in np.array_split(logits, 5)])
    starts = np.cumsum([0, *(len(part) for part in np.array_split(logits, 5))])[:5]
    words = pack_bits(mask)
    buffers = [logits, logits[best + starts], (best + starts).astype(np.uint32), np.zeros_like(logits),
               np.array([1, 0, 0, 0], np.int32), np.stack([p, p]), np.stack([~words, words]), np.stack([-bias, bias]),
               np.zeros(2, np.int32), np.array([7, position], np.int32), np.stack([seen, seen]),
               np.array([11], np.uint32), np.zeros(8, np.uint64)]  # fmt: skip
    found = run(library, "sample", buffers, 1, 64, seed)
    token = int(found[8][1])
    assert found[9].tolist() == [7, position + 1]
    assert found[10][1, token] == seen[token] + 1
    assert found[10].sum(dtype=np.int64) == 2 * seen.sum(dtype=np.int64) + 1
    assert found[11][0] == 12
    assert found[12][3] == 12 << 32 | token
    return token


def parameters(**values: float) -> Array:
    record = np.zeros((), SAMPLING_DTYPE)
    record["top_p"] = record["repetition_penalty"] = 1
    for name, value in values.items():
        record[name] = value
    return record


SETTINGS = (
    {},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.3, "presence_penalty": 0.4},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    {"flags": MASKED},
    {"flags": BIASED},
    {"flags": MASKED, "repetition_penalty": 1.5, "presence_penalty": 0.4},
    {"flags": MASKED, "temperature": 1.0},
    {"flags": MASKED | BIASED, "temperature": 1.5, "top_k": 12},
    {"flags": MASKED, "temperature": 0.8, "top_p": 0.7, "min_p": 0.01},
    {"flags": BIASED, "temperature": 1.0, "top_p": 0.9},
)


@pytest.mark.parametrize("values", SETTINGS, ids=lambda values: "+".join(values) or "greedy")
def test_draws_follow_the_distribution(library: SimLibrary, values: dict[str, float]) -> None:
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal(203) * 2).astype(np.float32)
    seen = np.where(rng.random(203) < 0.2, rng.integers(1, 4, 203), 0).astype(np.uint32)
    seen[:3] |= np.uint32(1 << 31)
    # The likeliest tokens are masked, the highest id is not: its word of the mask is not full.
    mask = (rng.random(203) < 0.15) & (logits < np.sort(logits)[-8])
    mask[202] = True
    bias = np.where(rng.random(203) < 0.1, rng.standard_normal(203) * 4, 0).astype(np.float32)
    p = parameters(**values)
    expected = distribution(logits, seen, p, mask, bias)
    draws = 1 if p["temperature"] == 0 else 400
    counts = np.zeros(203)
    for i in range(draws):
        p["seed"] = rng.integers(0, 2**63)
        token = draw(library, logits, seen, p, int(rng.integers(0, 1000)), i, mask, bias)
        assert expected[token] > 0, "a token that the filters exclude"
        counts[token] += 1
    # Chi-squared over the tokens that should come up often; its mean is the number of them, its sd sqrt(2n).
    often = expected * draws >= 5
    chi = (np.square(counts - expected * draws) / np.maximum(expected * draws, 1e-9))[often].sum()
    assert chi <= often.sum() + 5 * math.sqrt(2 * often.sum())


@pytest.mark.parametrize(
    "values", [{}, {"temperature": 100.0}, {"temperature": 1.0, "top_k": 5, "min_p": 0.5}], ids=str
)
def test_one_allowed_token_is_always_chosen(library: SimLibrary, values: dict[str, float]) -> None:
    """Also where its logit is far below all others, or every logit is the same."""
    rng = np.random.default_rng(0)
    seen = np.zeros(203, np.uint32)
    for token in (0, 31, 32, 202, *rng.integers(0, 203, 30).tolist()):
        logits = (rng.standard_normal(203) * 30 if token % 2 else np.zeros(203)).astype(np.float32)
        logits[token] -= 500 * (token % 3)
        p = parameters(flags=MASKED, seed=token, **values)
        assert draw(library, logits, seen, p, token, token, np.arange(203) == token) == token


def test_a_random_number_that_rounds_to_one_chooses_no_excluded_token(library: SimLibrary) -> None:
    """For this seed, position 1 and token 40 the number is 1 - 2**-28: its race takes forever, but runs alone."""
    p = parameters(temperature=1.0, flags=MASKED, seed=51595627)
    logits, seen = np.zeros(203, np.float32), np.zeros(203, np.uint32)
    assert draw(library, logits, seen, p, 0, 0, np.arange(203) == 40) == 40
    logits[40] = 5
    assert draw(library, logits, seen, parameters(temperature=1.0, top_k=1, seed=51595627), 0, 0) == 40


def test_seed_and_position_decide(library: SimLibrary) -> None:
    logits = np.zeros(203, np.float32)
    seen = np.zeros(203, np.uint32)
    p = parameters(temperature=1.0, seed=42)
    first: Callable[[int], int] = lambda position: draw(library, logits, seen, p, position, seed=position)  # noqa: E731
    assert [first(i) for i in range(5)] == [first(i) for i in range(5)]
    assert len({first(i) for i in range(8)}) > 3
    assert draw(library, logits, seen, parameters(temperature=1.0, seed=43), 0, 1) != first(0)
