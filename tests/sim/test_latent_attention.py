"""Latent attention of one row on the CPU in check mode (random thread order, races, bounds), against float64 numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from attention_cases import BLOCK, Heads, attended, fill, gather, heads_of, layer_base, table_and_cache
from imp_codegen.graph import Value
from imp_codegen.kernels.attention.sizes import latent_bytes, latent_chunk_bytes
from imp_codegen.ops import Attention

Array = NDArray[Any]
SLOT = 1
COLUMNS = 128  # of a head that one CTA of the sum makes


@dataclass(frozen=True)
class Case:
    """Heads, and over how many CTAs and teams of four warps their blocks are split."""

    heads: Heads
    splits: int = 3
    teams: int = 1
    slots: int = 2

    def source(self, name: str) -> str:
        heads = self.heads
        config = heads.config("AttentionConfig", splits=self.splits, warps=self.teams * 4)
        state = (
            "std::uint8_t* cache, const imp::StepRow* rows, const std::int32_t* positions, const std::int32_t* table"
        )
        return (
            f"using {name}_t = imp::LatentDecode<{config}, {heads.row}, {self.slots}>;\n"
            f"using {name}_m = imp::LatentMerge<{config}>;\n"
            f'extern "C" {{ int {name}_shared = {name}_t::kSharedBytes, {name}_merge = {name}_m::kSharedBytes; }}\n'
            f'extern "C" __global__ void {name}(const float* qkv, const std::uint64_t* turns, {state}, '
            "float* partial) {\n"
            f"  {name}_t::run({{qkv, turns, cache, rows, positions, table, partial}});\n}}\n"
            f'extern "C" __global__ void {name}_sum(const float* partial, const imp::StepRow* rows, '
            "const std::int32_t* positions, float* out) {\n"
            f"  {name}_m::run({{partial, rows, positions, out}});\n}}\n"
        )

    def chunk(self, name: str) -> str:
        """Attention of rows whose queries are turned and scaled, and whose keys are in the cache."""
        heads = replace(self.heads, shared=True, rope_dim=0)
        config = heads.config("AttentionConfig", splits=1, warps=8)
        inputs = "const float* q, std::uint8_t* cache, const std::int32_t* positions, const std::int32_t* table"
        step = "const imp::StepHeader* step, const imp::StepSequence* sequences"
        return (
            f"using {name}_c = imp::LatentPrefill<{config}, {heads.row}, {self.slots}, {heads.width}>;\n"
            f'extern "C" {{ int {name}_chunk_shared = {name}_c::kSharedBytes; }}\n'
            f'extern "C" __global__ void {name}_chunk({inputs}, float* out, {step}) {{\n'
            f"  {name}_c::run({{q, cache, positions, table, out, step, sequences}});\n}}\n"
        )


CASES = {
    "v2_lite": Case(Heads(16, 1, 576, rope_dim=64, interleaved=True, latent=512), splits=2, teams=2),
    "alone": Case(Heads(1, 1, 64, rope_dim=32, interleaved=True, latent=32), splits=1, teams=2),
    "odd_parts": Case(Heads(6, 1, 96, rope_dim=16, latent=80, magnitude=1.3), splits=2, slots=3),
    "two_shares": Case(Heads(24, 1, 144, rope_dim=16, interleaved=True, latent=128), splits=4),
    "many_heads": Case(Heads(128, 1, 80, rope_dim=16, interleaved=True, latent=64), splits=2, teams=2),
    "more_splits_than_warps": Case(Heads(2, 1, 96, rope_dim=32, interleaved=True, latent=64), splits=11),
}


def drawn(seed: int) -> Case:
    """Any shape that the stages take: few heads or many, no power of two, blocks split over any number of CTAs."""
    rng = np.random.default_rng([seed, 2])
    heads, latent, rope, teams = (int(rng.integers(*of)) for of in ((1, 41), (1, 9), (1, 5), (1, 4)))
    interleaved = bool(rng.integers(2))
    shape = Heads(
        heads, 1, 16 * (latent + rope), rope_dim=16 * rope, interleaved=interleaved, latent=16 * latent, magnitude=1.3
    )
    least = -(-shape.group * (16 * latent + 4) * 4 // (BLOCK * shape.head_dim * 2))  # a team's part lies in its slots
    return Case(shape, splits=int(rng.integers(1, 9)), teams=teams, slots=max(2, least) + int(rng.integers(2)))


FIXED = tuple(CASES)
DRAWN = tuple(f"drawn_{seed}" for seed in range(3))
CASES |= {name: drawn(seed) for seed, name in enumerate(DRAWN)}
PLACES = [
    *((name, position) for name in FIXED for position in (0, 1, 15, 16, 33, 200, 255)),
    *((name, position) for name in DRAWN for position in (7, 190)),
]
MIXES = [
    *((name, mix) for name in FIXED for mix in ([(1, 0)], [(5, 13), (1, 63), (4, 30)], [(2, 15), (2, 16), (3, 200)])),
    *((name, [(3, 30), (2, 130)]) for name in DRAWN),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("latents")
    sources = "".join(case.source(name) + case.chunk(name) for name, case in CASES.items())
    headers = ("stage/latent_merge", "stage/latent_prefill", "layout/cache_f16")
    includes = "".join(f'#include "imp/{header}.h"\n' for header in headers)
    (folder / "latents.cu").write_text(includes + sources, "utf-8")
    return SimLibrary(compile_sim(folder / "latents.cu", folder, "check"))


@pytest.mark.parametrize(("name", "position"), PLACES)
def test_latent_attention(library: SimLibrary, name: str, position: int) -> None:
    case, heads = CASES[name], CASES[name].heads
    rng = np.random.default_rng([position, *name.encode()])
    table, cache = table_and_cache(heads, SLOT, rng)
    fill(heads, cache, table[SLOT], rng.standard_normal((1, 1, position, heads.head_dim)).astype(np.float16))
    qkv = rng.standard_normal(heads.width).astype(np.float32)
    at = aligned(np.array([5, position, 7], np.int32))
    row = aligned(np.array([SLOT, 0, -1, 0], np.int32))
    held_cache = aligned(cache)
    partial = aligned(np.full(case.splits * heads.heads * (heads.latent + 4), np.nan, np.float32))
    out = aligned(np.full((heads.heads, heads.latent), np.nan, np.float32))
    turns = aligned(heads.turns())
    library.configure(order=2, seed=position)
    arguments = [aligned(qkv), turns, layer_base(heads, held_cache), row, at, aligned(heads.entries(table))]
    grid = (case.splits, heads.heads // heads.group, 1)
    shared = library.integer(f"{name}_shared")
    op = _attention(heads)
    assert shared == latent_bytes(op, heads.head_dim * 2, case.teams, case.slots)
    assert library.launch(name, [*arguments, partial], grid, case.teams * 128, shared) == ""
    sums = (heads.heads * -(-heads.latent // COLUMNS), 1, 1)
    assert library.launch(f"{name}_sum", [partial, row, at, out], sums, 256, library.integer(f"{name}_merge")) == ""

    q, k, _ = heads_of(heads, qkv[None], [], np.array([position]))
    now = gather(heads, held_cache, table[SLOT], np.arange(position + 1))
    np.testing.assert_allclose(now[0, :, -1], k[0], rtol=2**-11 + 1e-5, atol=2e-6)
    np.testing.assert_allclose(out, attended(heads, q, now, position)[0], rtol=2e-5, atol=2e-5)
    written = np.flatnonzero(np.not_equal(held_cache.view(np.uint16), cache.view(np.uint16)).any((0, 1, 2, 3, 5)))
    assert written.tolist() == [position % BLOCK]


# Of each sequence its rows and where it stands: pairs and what is left over, blocks that begin and end within.
@pytest.mark.parametrize(("name", "mix"), MIXES, ids=str)
def test_rows_of_prompts(library: SimLibrary, name: str, mix: list[tuple[int, int]]) -> None:
    """Against numpy, and each sequence beside the others as alone, to the bit."""
    case, heads = CASES[name], replace(CASES[name].heads, shared=True, rope_dim=0)
    rng = np.random.default_rng([len(mix), *name.encode()])
    slots = [2, 0, 1][: len(mix)]
    table = np.full((3, heads.table_blocks), -1, np.int32)
    places = rng.permutation(np.arange(1, 3 * heads.table_blocks + 1)).reshape(3, -1).astype(np.int32)
    cache = np.full((3 * heads.table_blocks + 1, 2, 1, 1, BLOCK, heads.head_dim), np.nan, np.float16)
    keys = [rng.standard_normal((1, 1, start + n, heads.head_dim)).astype(np.float16) for n, start in mix]
    for slot, kept, (n, start) in zip(slots, keys, mix, strict=True):
        table[slot, : -(-(start + n) // BLOCK)] = places[slot, : -(-(start + n) // BLOCK)]
        fill(heads, cache, table[slot], kept)
    at = np.full(3, 10**6, np.int32)
    at[slots] = [start for _, start in mix]
    total = sum(n for n, _ in mix)
    q = (rng.standard_normal((total, heads.width)) * 0.2).astype(np.float32)
    held = [layer_base(heads, aligned(cache)), aligned(at), aligned(heads.entries(table))]
    shared = library.integer(f"{name}_chunk_shared")
    assert shared == latent_chunk_bytes(_attention(heads), heads.head_dim * 2, 2, case.slots)

    def run(rows: Array, sequences: list[tuple[int, int]]) -> Array:
        out = aligned(np.full((total, heads.heads, heads.latent), 77, np.float32))
        lines = [(sum(n for _, n in sequences[:i]), n, slot, 1) for i, (slot, n) in enumerate(sequences)]
        step = [aligned(np.array(a, np.int32)) for a in ([len(rows), len(lines), 0, 0], [*lines, (10**6,) * 4])]
        grid = (total, heads.heads // heads.group, 1)
        assert library.launch(f"{name}_chunk", [aligned(rows), *held, out, *step], grid, 256, shared) == ""
        assert np.all(out[len(rows) :] == 77)
        return out[: len(rows)]

    library.configure(order=2, seed=total)
    together = run(q, [(slot, n) for slot, (n, _) in zip(slots, mix, strict=True)])
    first = 0
    for slot, kept, (n, start) in zip(slots, keys, mix, strict=True):
        own = q[first : first + n]
        truth = attended(heads, own.reshape(n, heads.heads, -1), kept, start)
        np.testing.assert_allclose(together[first : first + n], truth, atol=5e-4)
        for row in range(n if n < 3 else 1):  # a prompt's end in a chunk of its own
            alone = run(own[: row + 1], [(slot, row + 1)])
            np.testing.assert_array_equal(together[first : first + row + 1], alone)
        first += n


def _attention(heads: Heads) -> Attention:

    q, k = Value("q", heads.heads * heads.head_dim), Value("k", heads.head_dim)
    out = Value("out", heads.heads * heads.latent)
    return Attention(out, q, k, None, 0, heads.heads, 1, heads.head_dim, 1.0, latent=heads.latent)
