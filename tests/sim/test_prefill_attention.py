"""Rotation, cache append and attention of a chunk on the CPU in check mode, against float64 numpy."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

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
from imp_codegen.kernels.attention.sizes import span_of

Array = NDArray[Any]
CASES = {
    "group4": Heads(4, 1, 64, qk_norm=True),
    "group4_t128": Heads(4, 1, 64, qk_norm=True, tokens=128),
    "group1": Heads(2, 2, 128, interleaved=True),
    "group2": Heads(4, 2, 96, interleaved=True, qk_norm=True, tokens=64, magnitude=1.19, folds=True),
    "partly_turned": Heads(2, 2, 80, rope_dim=32, soft_cap=0.7),
    "neighbours_partly_turned": Heads(3, 1, 48, rope_dim=16, interleaved=True, magnitude=0.75, window=16),
    "nothing_turned": Heads(2, 1, 64, rope_dim=0, window=33),
    "most_turned_normed_values": Heads(2, 1, 128, rope_dim=96, qk_norm=True, v_norm=True, window=1),
    "values_of_keys": Heads(4, 2, 64, qk_norm=True, v_norm=True, tied=True),
    "values_are_keys": Heads(2, 1, 32, tied=True),
    "shared": Heads(4, 2, 64, qk_norm=True, shared=True),
    "all_heads_normed": Heads(4, 2, 64, qk_norm=True, whole_norm=True),
    "heads_of_144": Heads(2, 1, 144, window=64),
    "heads_of_256": Heads(2, 1, 256, qk_norm=True, window=40, soft_cap=50.0),
    "heads_of_256_t64": Heads(2, 1, 256, rope_dim=64, tokens=64),
    "heads_of_368": Heads(1, 1, 368, window=20),
    "heads_of_512": Heads(1, 1, 512, qk_norm=True, v_norm=True, tokens=64, window=70),
    "window_of_3": Heads(2, 1, 32, tokens=64, window=3),
    "window_of_3_t32": Heads(2, 1, 32, window=3),
    "window_of_65": Heads(2, 1, 32, tokens=128, window=65),
    "window_of_65_t32": Heads(2, 1, 32, window=65),
    "window_longer_than_all": Heads(2, 1, 32, window=1000),
    "group4_small_tiles": Heads(4, 1, 64, qk_norm=True, groups=2),
    "group7": Heads(7, 1, 64, tokens=64),
    "group18_shared_by_tiles": Heads(18, 1, 144, groups=1),
    "sinks": Heads(4, 1, 64, sinks=True),
    "sinks_by_parts": Heads(3, 3, 144, window=33, soft_cap=2.0, sinks=True),
    "sinks_of_many_spans": Heads(8, 2, 32, table_blocks=140, sinks=True, groups=2),
    "sinks_folded": Heads(
        8, 1, 64, tokens=64, table_blocks=140, window=700, groups=4, wgmma=True, folds=True, sinks=True
    ),
    "long": Heads(4, 1, 32, table_blocks=140),
    "long_t128": Heads(4, 1, 32, table_blocks=140, tokens=128, folds=True),
    "warpgroup": Heads(4, 1, 64, table_blocks=140, groups=4, wgmma=True),
    "warpgroups": Heads(4, 1, 64, tokens=128, table_blocks=140, groups=8, wgmma=True, folds=True),
    "warpgroup_of_128": Heads(7, 1, 128, groups=4, window=70, wgmma=True),
    "warpgroups_share_256": Heads(4, 1, 256, groups=4, soft_cap=50.0, wgmma=True),
    "long_window": Heads(4, 2, 32, table_blocks=140, window=700, groups=2, folds=True),
}
# Every border of blocks and tiles, of chunks, and of windows.
CHUNKS = [(1, 0), (29, 13), (10**9, 0), (30, 250), (32, 64), (17, 95), (1, 63), (32, 128)]


def source() -> str:
    """Two entries for each case and, beside each, its launch shape."""
    lines = [
        '#include "imp/stage/attention_prefill.h"',
        '#include "imp/stage/rope_append.h"',
        '#include "imp/layout/cache_f16.h"',
        'extern "C" int span_of(int position) { return imp::AttentionSpans::of(position); }',
        'extern "C" int span_begin(int span) { return imp::AttentionSpans::begin(span); }',
    ]
    for name, case in CASES.items():
        append = f"imp::RopeAppend<{case.config('RopeAppendConfig')}, {case.row}>"
        attend = f"imp::AttentionPrefill<{case.config('AttentionPrefillConfig')}, {case.row}>"
        floats, ints, header = "const float*", "const std::int32_t*", "const imp::StepHeader*"
        rows, sequences = "const imp::StepRow*", "const imp::StepSequence*"
        for entry, stage, kinds in (
            (
                f"append_{name}",
                append,
                ("float*", floats, floats, "const std::uint64_t*", "std::uint8_t*", ints, ints, header, rows),
            ),
            (
                f"attend_{name}",
                attend,
                (
                    floats,
                    "const std::uint8_t*",
                    ints,
                    ints,
                    "float*",
                    "std::uint32_t*",
                    "float*",
                    header,
                    sequences,
                    floats,
                ),
            ),
        ):
            parameters = ", ".join(f"{kind} a{i}" for i, kind in enumerate(kinds))
            arguments = ", ".join(f"a{i}" for i in range(len(kinds)))
            numbers = ", ".join(f"s_{entry}::{n}" for n in ("kGridX", "kGridY", "kGridZ", "kThreads", "kSharedBytes"))
            lines += [
                f"using s_{entry} = {stage};",
                f'extern "C" void {entry}({parameters}) {{ s_{entry}::run({{{arguments}}}); }}',
                f'extern "C" const int {entry}_shape[5] = {{{numbers}}};',
            ]
    return "\n".join(lines) + "\n"


class Kernels:
    """The compiled stages, run in a random order of threads; the check mode's complaint fails the test."""

    def __init__(self, library: SimLibrary, shapes: ctypes.CDLL) -> None:
        self.library, self.shapes = library, shapes

    def run(self, entry: str, *arrays: Array) -> None:
        x, y, z, threads, shared = (ctypes.c_int * 5).in_dll(self.shapes, f"{entry}_shape")
        self.library.configure(order=2, seed=1)
        assert self.library.launch(entry, arrays, (x, y, z), threads, shared) == ""

    def attend(
        self, name: str, q: Array, base: Array, table: Array, positions: Array, out: Array, *step: Array
    ) -> None:
        """Attention of a case; what spans leave is its own, and the counters are zero again."""
        case = CASES[name]
        partial = aligned(np.full((case.tokens * case.heads * case.spans, case.head_dim + 2), np.nan, np.float32))
        arrived = aligned(np.zeros(case.tokens * case.heads, np.uint32))
        self.run(f"attend_{name}", q, base, table, positions, partial, arrived, out, *step, aligned(sinks_of(case)))
        assert not arrived.any()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("prefill_attention")
    (folder / "attention.cu").write_text(source(), "utf-8")
    path = compile_sim(folder / "attention.cu", folder, "check")
    return Kernels(SimLibrary(path), ctypes.CDLL(str(path)))


def rows_of(*sequences: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Of sequences (slot, rows) the header, the rows and the sequences of a step, with wrong ones behind."""
    rows = [(slot, i, 9, 0) for slot, n in sequences for i in range(n)]
    lines = [(sum(n for _, n in sequences[:i]), n, slot, 1) for i, (slot, n) in enumerate(sequences)]
    wrong = [(10**6, 10**6, 10**6, 1)]
    header = [len(rows), len(lines), 0, 0]
    return tuple(aligned(np.array(a, np.int32)) for a in (header, rows + wrong, lines + wrong))  # type: ignore[return-value]  # three


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("n", "start"), [(1, 0), (29, 13), (32, 300)])
def test_append(kernels: Kernels, name: str, n: int, start: int) -> None:
    case, slot = CASES[name], 1
    rng = np.random.default_rng([n, start])
    table, cache = table_and_cache(case, slot, rng)
    cache = aligned(cache)
    qkv = aligned(rng.standard_normal((case.tokens, case.width)).astype(np.float32))
    before = qkv.copy()
    norms = [aligned(rng.uniform(0.5, 2, size).astype(np.float32)) for size in case.norm_sizes]
    positions = aligned(np.array([5, start, 7], np.int32))
    turns = aligned(case.turns())
    kernels.run(
        f"append_{name}",
        qkv,
        *norms,
        turns,
        layer_base(case, cache),
        aligned(case.entries(table)),
        positions,
        *rows_of((slot, n))[:2],
    )

    at = np.arange(start, start + n)
    q, k, v = heads_of(case, before[:n], norms, at)
    width = case.heads * case.head_dim
    np.testing.assert_allclose(qkv[:n, :width], q.reshape(n, -1), atol=2e-6)
    np.testing.assert_array_equal(qkv[n:], before[n:])
    np.testing.assert_array_equal(qkv[:, width:], before[:, width:])
    if case.shared:
        assert np.isnan(cache).all()
        return
    keys, values = gather(case, cache, table[slot], at)
    np.testing.assert_allclose(keys.swapaxes(0, 1), k, rtol=2**-11 + 1e-5, atol=2e-6)
    if case.v_norm:
        np.testing.assert_allclose(values.swapaxes(0, 1), v, rtol=2**-11 + 1e-5, atol=2e-6)
    else:
        np.testing.assert_array_equal(values.swapaxes(0, 1), v.astype(np.float16))
    assert np.count_nonzero(~np.isnan(cache)) == n * 2 * case.kv_heads * case.head_dim


def cached(case: Heads, slot: int, start: int, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Table, cache and k, v [2, kv_heads, start + n, head_dim]; blocks that no query sees are not there."""
    table, cache = table_and_cache(case, slot, rng)
    kv = rng.standard_normal((2, case.kv_heads, start + n, case.head_dim)).astype(np.float16)
    fill(case, cache, table[slot], kv)
    first = hidden(case, start) // BLOCK
    cache[table[slot, :first]] = np.nan
    table[slot, :first] = -1
    return aligned(case.entries(table)), aligned(cache), kv


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("n", "start"), CHUNKS)
def test_attention(kernels: Kernels, name: str, n: int, start: int) -> None:
    case, slot = CASES[name], 2
    n = min(n, case.tokens)
    rng = np.random.default_rng([n, start])
    table, cache, kv = cached(case, slot, start, n, rng)
    q = aligned(rng.standard_normal((case.tokens, case.width)).astype(np.float32) * np.float32(0.3))
    q[n:] = np.nan
    out = aligned(np.full((case.tokens, case.heads, case.head_dim), 77, np.float32))
    positions = aligned(np.array([3, 4, start], np.int32))
    base = layer_base(case, cache)
    kernels.attend(name, q, base, table, positions, out, *rows_of((slot, n))[::2])
    heads = q[:n, : case.heads * case.head_dim].reshape(n, case.heads, case.head_dim)
    halfs = attended(case, heads.astype(np.float16).astype(np.float32), kv, start)  # as queries enter the products
    np.testing.assert_allclose(out[:n], halfs, rtol=2**-12, atol=5e-4)  # weights are rounded, their sum is not
    assert np.sqrt(np.mean((out[:n] - halfs) ** 2)) < 2e-4 * np.sqrt(np.mean(halfs**2))
    truth = attended(case, heads, kv, start)
    assert np.sqrt(np.mean((out[:n] - truth) ** 2)) < 1e-3 * np.sqrt(np.mean(truth**2))
    assert np.all(out[n:] == 77)


# Borders of spans: where they begin to grow, and where one ends in the middle of a chunk.
@pytest.mark.parametrize("name", ["long", "long_t128", "long_window", "warpgroup"])
@pytest.mark.parametrize(("n", "start"), [(32, 1000), (32, 2030), (128, 2040), (1, 2047), (1, 2048), (31, 1261)])
def test_attention_over_many_spans(kernels: Kernels, name: str, n: int, start: int) -> None:
    test_attention(kernels, name, n, start)


def test_spans_lie_where_the_plan_has_them(kernels: Kernels) -> None:
    """Each begins where the one before ends, at a tile, is as its twin says, and is half of all before at most."""
    begin, end = 0, 0
    for span in range(30):
        begin, end = end, kernels.shapes.span_begin(span + 1)
        assert begin == kernels.shapes.span_begin(span)
        assert begin % 64 == 0
        assert 512 <= end - begin <= max(512, begin // 2)
        for position in (begin, (begin + end) // 2, end - 1):
            assert kernels.shapes.span_of(position) == span_of(position) == span


@pytest.mark.parametrize(
    ("big", "small", "begin"),
    [
        ("group4_t128", "group4", 0),
        ("window_of_65", "window_of_65_t32", 0),
        ("window_of_3", "window_of_3_t32", 0),
        ("group4_t128", "group4_small_tiles", 200),
        ("long_t128", "long", 1980),
        ("warpgroups", "warpgroup", 1980),
    ],
)
def test_attention_does_not_depend_on_the_chunk(kernels: Kernels, big: str, small: str, begin: int) -> None:
    case = CASES[big]
    assert replace(case, tokens=32, groups=0, folds=False) == replace(CASES[small], groups=0)
    rng = np.random.default_rng(3)
    table, cache, _ = cached(case, 0, begin, case.tokens, rng)
    q = aligned(rng.standard_normal((case.tokens, case.width)).astype(np.float32))
    whole = aligned(np.zeros((case.tokens, case.heads, case.head_dim), np.float32))
    base, at = layer_base(case, cache), aligned(np.array([begin, 0, 0], np.int32))
    kernels.attend(big, q, base, table, at, whole, *rows_of((0, case.tokens))[::2])
    for start, n in ((0, 17), (17, 32), (35, 1), (40, 23), (70, 1), (100, 28)):
        if start + n > case.tokens:
            continue
        part = aligned(np.zeros((32, case.heads, case.head_dim), np.float32))
        chunk = aligned(np.resize(q[start : start + n], (32, case.width)))
        at = aligned(np.array([begin + start, 0, 0], np.int32))
        kernels.attend(small, chunk, base, table, at, part, *rows_of((0, n))[::2])
        np.testing.assert_array_equal(part[:n], whole[start : start + n])


# Of each sequence its rows and where it stands: tiles that are not full, single rows, blocks in use at both ends.
MIXES = [[(1, 300), (1, 0), (1, 63)], [(17, 95), (14, 1)], [(5, 31), (3, 64), (24, 0)], [(33, 130), (31, 7), (64, 16)]]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_what_becomes_of_a_sequence_does_not_depend_on_the_others(
    kernels: Kernels, name: str, mix: list[tuple[int, int]]
) -> None:
    """Rows of several in one step, in another order than their slots, beside each alone: the same bits."""
    case = CASES[name]
    if sum(n for n, _ in mix) > case.tokens:
        mix = [(n % 16, start) for n, start in mix if n % 16]
    rng = np.random.default_rng(len(mix))
    slots = [2, 0, 1][: len(mix)]
    blocks = rng.permutation(np.arange(1, 3 * case.table_blocks + 1)).reshape(3, -1).astype(np.int32)
    cache = np.full((3 * case.table_blocks + 1, 2, 2, case.kv_heads, BLOCK, case.head_dim), np.nan, np.float16)
    positions = np.full(3, 10**6, np.int32)
    for slot, (n, start) in zip(slots, mix, strict=True):
        positions[slot] = start
        filled = start + (n if case.shared else 0)  # another layer has appended
        kv = rng.standard_normal((2, case.kv_heads, filled, case.head_dim)).astype(np.float16)
        fill(case, cache, blocks[slot], kv)
    qkv = np.full((case.tokens, case.width), np.nan, np.float32)
    total = sum(n for n, _ in mix)
    qkv[:total] = rng.standard_normal((total, case.width)) * 0.3
    norms = [rng.uniform(0.5, 2, size).astype(np.float32) for size in case.norm_sizes]
    turns, held_norms, at = aligned(case.turns()), [aligned(norm) for norm in norms], aligned(positions)

    def run(rows: Array, sequences: list[tuple[int, int]]) -> tuple[Array, Array]:
        given, kept = aligned(np.resize(rows, qkv.shape)), aligned(cache)
        given[len(rows) :] = np.nan
        out = aligned(np.full((case.tokens, case.heads, case.head_dim), 77, np.float32))
        base, table = layer_base(case, kept), aligned(case.entries(blocks))
        header, lines, runs = rows_of(*sequences)
        kernels.run(f"append_{name}", given, *held_norms, turns, base, table, at, header, lines)
        kernels.attend(name, given, base, table, at, out, header, runs)
        assert np.all(out[len(rows) :] == 77)
        return out[: len(rows)], kept

    together, all_kept = run(qkv[:total], [(slot, n) for slot, (n, _) in zip(slots, mix, strict=True)])
    assert np.isfinite(together).all()
    first = 0
    for slot, (n, _) in zip(slots, mix, strict=True):
        alone, kept = run(qkv[first : first + n], [(slot, n)])
        np.testing.assert_array_equal(together[first : first + n], alone)
        np.testing.assert_array_equal(all_kept[blocks[slot]].view(np.uint16), kept[blocks[slot]].view(np.uint16))
        first += n
