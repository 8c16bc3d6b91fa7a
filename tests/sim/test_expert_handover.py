"""What experts' kernels of one row hand on, or find out for themselves, on the CPU in check mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim
from test_expert_stages import GRID, WARPS, Experts, chosen, close

from activations import gated as gated_truth
from imp_codegen.formats import format_named
from imp_codegen.layouts import Tile
from imp_codegen.reference import round_activations
from random_rows import place, random_rows

Array = NDArray[Any]
# 18 blocks of 32 results, so that three of five CTAs have four; 27 tiles of down for 15 warps.
CASE = Experts("handed", 320, 288, 6, 2, ("Q8_0", "Q8_0", "Q8_0"))
WIDE = CASE.used * CASE.width
GEMV = f"imp::GemvConfig{{.warps = {WARPS}, .grid = {GRID}, .slots = 2}}"
ROUTE = f"imp::RouteConfig{{.experts = {CASE.count}, .others = 0, .used = {CASE.used}, .normalise = true}}"
ROUTER = place(format_named("F32"), CASE.count, CASE.hidden, Tile(1, CASE.hidden))


def source() -> str:
    gate, up, down = (CASE.place(number)[2] for number in range(3))
    first, second = CASE.encode(CASE.hidden, (0, 1), norm=True), CASE.encode(WIDE, (2,), norm=False)
    made = second.replace("}", ", .made = true}")
    store = f"imp::EncodeExperts<0, {GEMV}, {CASE.used}, {CASE.width}>"
    add = f"imp::AddExperts<0, {CASE.used}, {CASE.hidden}>"
    return f"""
#include "imp/layout/f32.h"
#include "imp/layout/q8_0.h"
#include "imp/stage/expert_gemv.h"
using plain_t = imp::ExpertGateUp<{GEMV}, {first}, {ROUTE}, imp::StoreExperts<0>, {gate}, {up}, imp::Silu>;
using chosen_t = imp::ExpertGateUp<{GEMV}, {first}, {ROUTE}, {store}, {gate}, {up}, imp::Silu>;
using routed_t = imp::RoutedGateUp<{GEMV}, {first}, {ROUTE}, {ROUTER[2]}, {store}, {gate}, {up}, imp::Silu>;
using floats_t = imp::ExpertDown<{GEMV}, {second}, {CASE.used}, {CASE.count}, {add}, {down}>;
using codes_t = imp::ExpertDown<{GEMV}, {made}, {CASE.used}, {CASE.count}, {add}, {down}>;
using known_t = imp::KnownRoute<{CASE.used}, {CASE.count}, {CASE.width}>;
struct mistaken_t : known_t {{
  using known_t::known_t;
  static int guess(const Args& a) {{ return (known_t::guess(a) + 1) % {CASE.count}; }}
}};
using anew_t = imp::ExpertGemv<{GEMV}, {made}, mistaken_t, {add}, imp::RoutedSum<{down}, {CASE.used}>>;
using Bytes = const std::uint8_t*;
extern "C" {{
int plain_shared = plain_t::kSharedBytes;
int chosen_shared = chosen_t::kSharedBytes;
int routed_shared = routed_t::kSharedBytes;
int floats_shared = floats_t::kSharedBytes;
int codes_shared = codes_t::kSharedBytes;
int anew_shared = anew_t::kSharedBytes;
__global__ void plain(const float* x, const float* norm, const float* logits, float* route, float* y, std::uint8_t*,
                      Bytes gate, Bytes up, Bytes) {{
  plain_t::run({{x, norm, {{logits, route}}, {{y, {{nullptr}}}}, {{gate, up}}}});
}}
__global__ void chosen(const float* x, const float* norm, const float* logits, float* route, float* y,
                       std::uint8_t* made, Bytes gate, Bytes up, Bytes) {{
  chosen_t::run({{x, norm, {{logits, route}}, {{y, {{nullptr}}, made}}, {{gate, up}}}});
}}
__global__ void routed(const float* x, const float* norm, float* logits, float* route, float* y, std::uint8_t* made,
                       Bytes gate, Bytes up, Bytes router) {{
  routed_t::run({{x, norm, {{router, nullptr, logits, route}}, {{y, {{nullptr}}, made}}, {{gate, up}}}});
}}
__global__ void floats(const float* x, const float* route, float* y, Bytes down) {{
  floats_t::run({{x, nullptr, {{route}}, {{y, {{nullptr}}}}, {{down}}}});
}}
__global__ void codes(Bytes x, const float* route, float* y, Bytes down) {{
  codes_t::run({{x, nullptr, {{route}}, {{y, {{nullptr}}}}, {{down}}}});
}}
__global__ void anew(Bytes x, const float* route, float* y, Bytes down) {{
  anew_t::run({{x, nullptr, {{route}}, {{y, {{nullptr}}}}, {{down}}}});
}}
}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("handover")
    (folder / "handover.cu").write_text(source(), "utf-8")
    return SimLibrary(compile_sim(folder / "handover.cu", folder, "check"))


def launch(library: SimLibrary, entry: str, *buffers: Array) -> list[Array]:
    library.configure(order=2, seed=7)
    held = [aligned(buffer) for buffer in buffers]
    assert library.launch(entry, held, (GRID, 1, 1), WARPS * 32, library.integer(f"{entry}_shared")) == ""
    return held


@pytest.fixture(scope="module")
def given() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    fmt = format_named("Q8_0")
    values: dict[str, Array] = {
        "x": (rng.standard_normal(CASE.hidden) * 3).astype(np.float32),
        "norm": rng.uniform(0.5, 1.5, CASE.hidden).astype(np.float32),
        "router": (rng.standard_normal((CASE.count, CASE.hidden)) / 8).astype(np.float32),
    }
    for number, name in enumerate(("gate", "up", "down")):
        rows, cols = (CASE.width, CASE.hidden) if number < 2 else (CASE.hidden, CASE.width)
        layout, tile, _ = CASE.place(number)
        stored = random_rows(fmt, CASE.count * rows, cols, rng)
        values[name] = layout.pack(fmt, stored, tile)
        values[f"{name}_weights"] = fmt.dequantize(stored).astype(np.float64).reshape(CASE.count, rows, cols)
    return values


def gate_up(library: SimLibrary, given: dict[str, Array], entry: str, logits: Array) -> list[Array]:
    """Logits, route, results, codes and scales."""
    outputs = np.zeros(2 * CASE.used, np.float32), np.zeros(WIDE, np.float32)
    made = np.zeros(-(-WIDE // 128) * 128 + WIDE // 4, np.uint8)
    planes = given["gate"], given["up"], given.get("router_plane", given["gate"])
    return launch(library, entry, given["x"], given["norm"], logits, *outputs, made, *planes)[2:6]


LOGITS = np.array([0.5, -1, 2, 0.25, 1.75, -3], np.float32)


def test_codes_are_those_of_what_each_expert_counts(library: SimLibrary, given: dict[str, Array]) -> None:
    _, route, results, _ = gate_up(library, given, "plain", LOGITS)
    _, same_route, same_results, made = gate_up(library, given, "chosen", LOGITS)
    np.testing.assert_array_equal(same_route, route)
    np.testing.assert_array_equal(same_results, results)
    weighed = results.reshape(CASE.used, -1) * route[CASE.used :, None]
    blocks = weighed.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1)
    want = np.rint(blocks * (np.float32(127) / largest)[:, None]).astype(np.int8)
    chunks = np.arange(WIDE // 16)
    found = made[: -(-WIDE // 128) * 128].view(np.int8).reshape(-1, 16)[chunks ^ (chunks >> 3 & 1)].reshape(-1, 32)
    assert (np.abs(found.astype(int) - want) <= 1).all()
    assert (found != want).mean() < 0.01  # those that lie on a half
    scales = made[-(-WIDE // 128) * 128 :].view(np.uint32).reshape(-1, 2)
    np.testing.assert_allclose(scales[:, 0].view(np.float32), largest / 127, rtol=1e-6)
    np.testing.assert_array_equal(scales.view(np.int16)[:, 2:], found.reshape(-1, 2, 16).sum(axis=2))


def test_a_product_of_codes_has_the_bits_of_one_that_encodes(library: SimLibrary, given: dict[str, Array]) -> None:
    _, route, results, made = gate_up(library, given, "chosen", LOGITS)
    before = np.linspace(-1, 1, CASE.hidden, dtype=np.float32)
    *_, want, _ = launch(library, "floats", results, route, before, given["down"])
    *_, found, _ = launch(library, "codes", made, route, before, given["down"])
    np.testing.assert_array_equal(found, want)
    vectors = round_activations(results.reshape(CASE.used, -1) * route[CASE.used :, None]).astype(np.float64)
    experts = route[: CASE.used].astype(int)
    assert close(found, before + np.einsum("uhw,uw->h", given["down_weights"][experts], vectors))


def test_a_wrong_guess_costs_only_time(library: SimLibrary, given: dict[str, Array]) -> None:
    _, route, _, made = gate_up(library, given, "chosen", LOGITS)
    before = np.linspace(-1, 1, CASE.hidden, dtype=np.float32)
    *_, want, _ = launch(library, "codes", made, route, before, given["down"])
    *_, found, _ = launch(library, "anew", made, route, before, given["down"])
    np.testing.assert_array_equal(found, want)


def test_experts_with_their_own_router(library: SimLibrary, given: dict[str, Array]) -> None:
    fmt = format_named("F32")
    layout, tile, _ = ROUTER
    plane = layout.pack(fmt, given["router"].view(np.uint8).reshape(CASE.count, -1), tile)
    nothing = np.zeros(CASE.count, np.float32)
    logits, route, results, made = gate_up(library, given | {"router_plane": plane}, "routed", nothing)
    wide = given["x"].astype(np.float64)
    normed = wide / np.sqrt(np.mean(np.square(wide)) + 1e-5) * given["norm"]
    np.testing.assert_allclose(logits, given["router"] @ normed, rtol=1e-5, atol=1e-5)
    by_hand = chosen(logits[None], nothing[None], np.ones(CASE.count), replace(CASE, scaled=False))
    np.testing.assert_array_equal(route[: CASE.used], by_hand[0][0])
    np.testing.assert_allclose(route[CASE.used :], by_hand[1][0], rtol=1e-6)
    for found, want in zip((route, results, made), gate_up(library, given, "chosen", logits)[1:], strict=True):
        np.testing.assert_array_equal(found, want)
    pair = [given[f"{name}_weights"][by_hand[0][0]] @ round_activations(normed.astype(np.float32)[None])[0]
            for name in ("gate", "up")]  # fmt: skip
    assert close(results.reshape(CASE.used, -1), gated_truth("Silu", *pair))
