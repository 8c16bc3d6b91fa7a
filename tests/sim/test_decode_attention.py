"""Decode attention on the CPU in check mode (random thread order, races, bounds), against float64 numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim
from test_batch_stages import fragments_of
from test_panel_stages import panels_of

from attention_cases import (
    BLOCK,
    Heads,
    attended,
    fill,
    gather,
    heads_of,
    hidden,
    layer_base,
    sinks_of,
    table_and_cache,
)

Array = NDArray[Any]
SLOT = 1
HEADERS = ("stage/attention_decode", "stage/panel", "stage/fragments", "layout/cache_f16")


@dataclass(frozen=True)
class Case:
    """Heads, and over how many CTAs and warps their blocks are split."""

    heads: Heads
    splits: int = 3
    warps: int = 2
    slots: int = 2

    def source(self, name: str) -> str:
        config = self.heads.config("AttentionConfig", splits=self.splits, warps=self.warps)
        inputs = "const float* qkv, const float* q, const float* k, const std::uint64_t* turns"
        state = (
            "std::uint8_t* cache, const imp::StepRow* rows, const std::int32_t* positions, const std::int32_t* table"
        )
        outputs = "float* partial, std::uint32_t* arrived, float* out, const float* sinks"
        return (
            f"using {name}_t = imp::AttentionDecode<{config}, {self.heads.row}, {self.slots}>;\n"
            f'extern "C" {{ int {name}_shared = {name}_t::kSharedBytes; }}\n'
            f'extern "C" __global__ void {name}({inputs}, {state}, {outputs}) {{\n'
            f"  {name}_t::run({{qkv, q, k, turns, cache, rows, positions, table, "
            "partial, arrived, out, nullptr, sinks});\n}\n"
        )


CASES = {
    "groups_of_8": Case(Heads(16, 2, 64, qk_norm=True), slots=3),
    "two_shares_of_6": Case(Heads(12, 1, 16)),
    "heads_of_96": Case(Heads(4, 2, 96, magnitude=1.19), warps=3),
    "heads_of_80_partly_turned": Case(Heads(4, 4, 80, rope_dim=32)),
    "neighbours_partly_turned": Case(Heads(3, 1, 48, rope_dim=16, interleaved=True, magnitude=0.75), splits=2),
    "most_of_128_turned": Case(Heads(4, 2, 128, rope_dim=96, qk_norm=True)),
    "nothing_turned": Case(Heads(4, 2, 64, rope_dim=0, window=33)),
    "normed_values": Case(Heads(4, 2, 64, qk_norm=True, v_norm=True)),
    "values_of_keys": Case(Heads(4, 2, 64, qk_norm=True, v_norm=True, tied=True)),
    "shared": Case(Heads(4, 2, 64, qk_norm=True, v_norm=True, shared=True)),
    "shared_window": Case(Heads(8, 1, 32, shared=True, window=17), warps=3),
    "all_heads_normed": Case(Heads(8, 2, 64, qk_norm=True, whole_norm=True)),
    "all_heads_normed_alone": Case(Heads(3, 1, 48, qk_norm=True, whole_norm=True, shared=True), warps=3),
    "sinks": Case(Heads(8, 2, 64, sinks=True)),
    "sinks_alone": Case(Heads(5, 1, 64, window=20, soft_cap=2.0, sinks=True), splits=1, warps=3),
    "sinks_in_two_shares": Case(Heads(12, 1, 16, window=128, sinks=True), splits=4),
    "capped": Case(Heads(4, 1, 32, soft_cap=0.7)),
    "heads_of_144": Case(Heads(2, 1, 144, window=70)),
    "heads_of_256": Case(Heads(4, 2, 256, qk_norm=True)),
    "heads_of_256_in_groups_of_8": Case(Heads(8, 1, 256, rope_dim=64, window=40, soft_cap=50.0), warps=3),
    "heads_of_512": Case(Heads(2, 2, 512, qk_norm=True, v_norm=True, window=20)),
    "window_of_1": Case(Heads(2, 1, 32, window=1)),
    "window_of_5": Case(Heads(2, 1, 32, window=5)),
    "window_of_16": Case(Heads(2, 1, 32, window=16), warps=1),
    "window_of_17": Case(Heads(2, 1, 32, window=17), warps=1),
    "window_of_100": Case(Heads(2, 1, 32, window=100)),
    "window_longer_than_all": Case(Heads(2, 1, 32, window=1000)),
}  # fmt: skip


# Rows of a step of several sequences, whose results a product reads; as nothing is appended, they may be of one.
ROWS, LIVE = 16, 11
SEVERAL = Case(Heads(4, 2, 64, shared=True))
ORDERS = {"PanelOrder": panels_of, "FragmentOrder": fragments_of}


def several(order: str) -> str:
    """The source of a launch whose results are left in an order, too."""
    heads = SEVERAL.heads
    config = heads.config("AttentionConfig", splits=SEVERAL.splits, warps=SEVERAL.warps)
    return (
        f"using {order}_t = imp::AttentionDecode<{config}, {heads.row}, 2, {ROWS}, {heads.width}, imp::{order}>;\n"
        f'extern "C" {{ int {order}_shared = {order}_t::kSharedBytes; }}\n'
        f'extern "C" __global__ void {order}(const float* qkv, std::uint8_t* cache, const imp::StepRow* rows, '
        "const std::int32_t* positions, const std::int32_t* table, float* partial, std::uint32_t* arrived, float* out, "
        "const imp::StepHeader* step, const std::uint64_t* turns, std::uint8_t* halfs, float* factors) {\n"
        f"  {order}_t::run({{qkv, nullptr, nullptr, turns, cache, rows, positions, table, partial, arrived, out, step, "
        "nullptr, halfs, factors});\n}\n"
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("attention")
    sources = "".join(case.source(name) for name, case in CASES.items()) + "".join(map(several, ORDERS))
    (folder / "attention.cu").write_text("".join(f'#include "imp/{name}.h"\n' for name in HEADERS) + sources, "utf-8")
    return SimLibrary(compile_sim(folder / "attention.cu", folder, "check"))


def positions_of(window: int) -> list[int]:
    """Around the borders of blocks, and around those at which the window leaves one."""
    edges = {0, 1, 15, 16, 17, 31, 47, 200, 255}
    edges |= {window + at for at in (-2, -1, 0, 14, 15, 16, 30, 31, 32, 159)} if window else set()
    return sorted(at for at in edges if 0 <= at < 24 * BLOCK)


@pytest.mark.parametrize(
    ("name", "position"),
    [(name, position) for name, case in CASES.items() for position in positions_of(case.heads.window)],
)
def test_attention(library: SimLibrary, name: str, position: int) -> None:
    case, heads = CASES[name], CASES[name].heads
    rng = np.random.default_rng([position, *name.encode()])
    table, cache = table_and_cache(heads, SLOT, rng)
    known = position + heads.shared  # then an earlier layer has appended the token's own
    before = rng.standard_normal((heads.tiles, heads.kv_heads, known, heads.head_dim)).astype(np.float16)
    fill(heads, cache, table[SLOT], before)
    row = table[SLOT].copy()
    first = hidden(heads, position) // BLOCK
    table[SLOT, :first] = -1  # nobody may look at what lies wholly before the window
    cache[row[:first]] = np.nan
    qkv = rng.standard_normal(heads.width).astype(np.float32)
    norms = [rng.uniform(0.5, 2, size).astype(np.float32) for size in heads.norm_sizes]
    at = np.array([5, position, 7], np.int32)
    items = heads.heads // heads.group
    held = [aligned(a) for a in (qkv, *norms, heads.turns())]
    held_cache = aligned(cache)
    held += [layer_base(heads, held_cache)]
    held += [aligned(np.array([SLOT, 0, -1, 0], np.int32)), aligned(at), aligned(heads.entries(table))]
    partial = np.full(items * case.splits * heads.group * (heads.head_dim + 2), np.nan, np.float32)
    out = aligned(np.full((heads.heads, heads.head_dim), np.nan, np.float32))
    arrived = aligned(np.zeros(items, np.uint32))
    sinks = aligned(sinks_of(heads))
    library.configure(order=2, seed=position)
    shared = library.integer(f"{name}_shared")
    error = library.launch(
        name, [*held, aligned(partial), arrived, out, sinks], (case.splits, items, 1), case.warps * 32, shared
    )
    assert error == ""

    q, k, v = heads_of(heads, qkv[None], norms, np.array([position]))
    now = gather(heads, held_cache, row, np.arange(position + 1))
    if not heads.shared:
        np.testing.assert_allclose(now[0, :, -1], k[0], rtol=2**-11 + 1e-5, atol=2e-6)
    if not heads.shared:
        np.testing.assert_allclose(now[1, :, -1], v[0], rtol=2**-11 + 1e-5, atol=2e-6)
    np.testing.assert_allclose(out, attended(heads, q, now, position)[0], rtol=2e-5, atol=2e-5)
    assert not arrived.any()
    written = np.flatnonzero(np.not_equal(held_cache.view(np.uint16), cache.view(np.uint16)).any((0, 1, 2, 3, 5)))
    assert written.tolist() == ([] if heads.shared else [position % BLOCK])


@pytest.mark.parametrize("order", ORDERS)
def test_results_are_left_for_a_product(library: SimLibrary, order: str) -> None:
    heads = SEVERAL.heads
    rng = np.random.default_rng(3)
    table, cache = table_and_cache(heads, SLOT, rng)
    fill(heads, cache, table[SLOT], rng.standard_normal((2, heads.kv_heads, 50, heads.head_dim)).astype(np.float16))
    rows = np.array([(SLOT, -i, -1, 0) for i in range(LIVE)], np.int32)
    qkv = aligned(rng.standard_normal((ROWS, heads.width)).astype(np.float32))
    held = aligned(cache)
    items, cols = heads.heads // heads.group, heads.heads * heads.head_dim
    partial = aligned(np.full(ROWS * items * SEVERAL.splits * heads.group * (heads.head_dim + 2), np.nan, np.float32))
    arrived = aligned(np.zeros(ROWS * items, np.uint32))
    out = aligned(np.full((ROWS, cols), np.nan, np.float32))
    halfs = aligned(np.full(ROWS * cols, np.nan, np.float16))
    factors = aligned(np.full(ROWS, np.nan, np.float32))
    given = [qkv, layer_base(heads, held), aligned(rows), aligned(np.array([5, 49, 7], np.int32))]
    given += [aligned(heads.entries(table)), partial, arrived, out]
    given += [aligned(np.array([LIVE, LIVE, 0, 0], np.int32)), aligned(heads.turns()), halfs, factors]
    shared = library.integer(f"{order}_shared")
    error = library.launch(order, given, (SEVERAL.splits, items * ROWS, 1), SEVERAL.warps * 32, shared)
    assert error == ""
    assert np.isfinite(out[:LIVE]).all()
    meant = ORDERS[order](out.astype(np.float16))
    np.testing.assert_array_equal(halfs, meant.reshape(-1))
    np.testing.assert_array_equal(factors, [1.0] * LIVE + [np.nan] * (ROWS - LIVE))
