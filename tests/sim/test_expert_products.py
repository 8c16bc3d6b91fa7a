"""What a mixture's experts make of several rows, by kernels that go expert by expert, in check mode, against numpy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, compile_sim
from test_panel_stages import GATES, Warps
from test_prefill_stages import placed, step, values_of

from imp_codegen.formats import format_named
from imp_codegen.layouts import Tile
from random_rows import place, random_rows

Array = NDArray[Any]
NO_PAIR = -1
GATE = "Silu"


@dataclass(frozen=True)
class Mixture:
    """A layer's experts. `warps`: how products share a tile of `tile` pairs; None: by warpgroups."""

    experts: int
    used: int
    rows: int
    hidden: int
    width: int
    format: str
    shape: tuple[int, int]  # of the layout's tiles
    tile: int = 64
    warps: Warps | None = None
    down: str = ""  # the format of the down matrices, if it is another

    @property
    def places(self) -> int:
        """At most: a multiple of eight for each expert."""
        pairs = self.rows * self.used
        return -(-(pairs + 7 * min(self.experts, pairs)) // 8) * 8

    @property
    def tiles(self) -> int:
        pairs = self.rows * self.used
        return min(self.experts, pairs) + pairs // self.tile

    def matrix(self, which: str) -> tuple[Any, Tile, str]:
        fmt, rows, cols = self.of(which)
        return place(format_named(fmt), rows, cols, Tile(*self.shape) if cols % self.shape[1] == 0 else None)

    def of(self, which: str) -> tuple[str, int, int]:
        """Format, rows and columns of each matrix."""
        if which == "down":
            return self.down or self.format, self.hidden, self.width
        return self.format, self.width, self.hidden

    def product(self, which: str) -> str:
        _, rows, cols = self.of(which)
        paired = which != "down"
        matrices = ", ".join(self.matrix(each)[2] for each in (("gate", "up") if paired else ("down",)))
        config = (
            f".cols = {cols}, .tokens = {self.places}, .block_tokens = {self.tile}, .stride = {self.used * rows}, "
            ".offset = 0, .accumulate = false, .biased = 1, .scale = 1.0f, .cap = 0.0f"
        )
        gate = f"imp::{GATE if paired else 'NoGate'}"
        ends = f", .paired = {str(paired).lower()}, .experts = {self.experts}, .used = {self.used}"
        if self.warps:
            return f"imp::GemmMma<imp::MmaConfig{{{config}{self.warps.fields()}{ends}}}, {gate}, {matrices}>"
        ends += f", .per_sm = {2 if self.tile <= 64 else 1}"
        return f"imp::GemmWgmma<imp::WgmmaConfig{{{config}, .halves = false{ends}}}, {gate}, {matrices}>"

    def encoder(self, cols: int, *, each: bool) -> str:
        config = (
            f".cols = {cols}, .tokens = {self.places}, .norm = {str(not each).lower()}, .gated = false, "
            f".dense = false, .eps = 1e-5f, .panels = true, .peak = {4 if self.warps else 14}, "
            f".used = {self.used}, .each = {str(each).lower()}"
        )
        return f"imp::EncodeActivations<imp::ActivationsConfig{{{config}}}>"

    def stages(self) -> dict[str, tuple[str, str, str, int]]:
        """Of each kernel: its type, its arguments as a0, a1, ..., its grid, and how many pointers it has."""
        places = (
            f"imp::ExpertPlaces<imp::PlacesConfig{{.rows = {self.rows}, .experts = {self.experts}, "
            f".used = {self.used}, .places = {self.places}, .tile_pairs = {self.tile}}}>"
        )
        combine = f"imp::CombineRows<imp::CombineConfig{{{self.hidden}, {self.used}, 32, 0.5f, true}}>"
        encoded, ends = "a0, a1, nullptr, a2, a3, a4, a5", "a{}, a{}, nullptr, nullptr, a{}, nullptr"
        return {
            "places": (places, "a0, a1, a2, a3", "1, 1", 4),
            "gather": (self.encoder(self.hidden, each=False), encoded, f"{self.places}, 1", 6),
            "gate_up": (self.product("gate"), f"a0, a1, {{a2, a3}}, {{{{a4}}}}, {ends.format(5, 6, 7)}", "3, 1", 8),
            "each": (self.encoder(self.width, each=True), encoded, f"{self.places}, 1", 6),
            "down": (self.product("down"), f"a0, a1, {{a2}}, {{{{a3}}}}, {ends.format(4, 5, 6)}", "3, 1", 7),
            "combine": (combine, "a0, a1, a2, a3", f"{-(-self.hidden // 128)}, {self.rows}", 4),
        }


MIXTURES = {
    "few": Mixture(3, 2, 13, hidden=256, width=64, format="Q8_0", shape=(2, 32)),
    "few_by_warps": Mixture(3, 2, 13, 256, 64, "Q8_0", (2, 32), warps=Warps(1, 1, half_sums=True)),
    "many": Mixture(70, 8, 40, hidden=256, width=128, format="Q4_K", shape=(4, 256), tile=32, down="Q8_0"),
    "many_by_warps": Mixture(70, 8, 40, 256, 128, "Q4_K", (2, 256), down="Q8_0", warps=Warps(1, 2, half_sums=True)),
    "one_tile": Mixture(33, 4, 40, hidden=256, width=256, format="Q6_K", shape=(2, 256), tile=256),
    "alone": Mixture(2, 1, 70, hidden=128, width=32, format="BF16", shape=(1, 32), warps=Warps(2, 1, half_sums=False)),
}


def source() -> str:
    headers = ["combine", "encode_activations", "expert_places", "gemm_mma", "gemm_wgmma"]
    lines = [f'#include "imp/stage/{name}.h"' for name in headers]
    lines += [f'#include "imp/layout/{name}.h"' for name in ("bf16", "q4_k", "q6_k", "q8_0")]
    lines.append("struct Any { void* p; template <class T> operator T*() const { return static_cast<T*>(p); } };")
    for name, mixture in MIXTURES.items():
        for stage, (kind, arguments, grid, count) in mixture.stages().items():
            entry = f"{name}_{stage}"
            parameters = ", ".join(f"void* p{i}" for i in range(count))
            lines += [
                f"using s_{entry} = {kind};",
                f'extern "C" void {entry}({parameters}) {{',
                *(f"  const Any a{i}{{p{i}}};" for i in range(count)),
                f"  s_{entry}::run({{{arguments}}});\n}}",
                f'extern "C" const int {entry}_shape[5] = {{{grid}, 1, s_{entry}::kThreads, s_{entry}::kSharedBytes}};',
            ]
    return "\n".join(lines)


class Kernels:
    """The compiled stages, run in a random order of threads; the check mode's complaint fails the test."""

    def __init__(self, library: SimLibrary, shapes: ctypes.CDLL) -> None:
        self._library, self._shapes = library, shapes

    def run(self, entry: str, *arrays: Array) -> None:
        x, y, z, threads, shared = (ctypes.c_int * 5).in_dll(self._shapes, f"{entry}_shape")
        self._library.configure(order=2, seed=1)
        assert self._library.launch(entry, arrays, (x, y, z), threads, shared) == ""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("experts")
    (folder / "experts.cu").write_text(source(), "utf-8")
    path = compile_sim(folder / "experts.cu", folder, "check")
    return Kernels(SimLibrary(path), ctypes.CDLL(str(path)))


def random_route(mixture: Mixture, n: int, rng: np.random.Generator) -> Array:
    """Of n rows; one expert is everybody's, another nobody's, where that can be."""
    route = np.full((mixture.rows, 2 * mixture.used), np.nan, np.float32)
    for row in range(n):
        others = rng.permutation(np.arange(1, mixture.experts - 1 if mixture.experts > mixture.used + 1 else None))
        first = [0] if row % 3 or mixture.experts == 2 else []
        chosen = [*first, *others][: mixture.used] if len(others) + len(first) >= mixture.used else [0, 1]
        route[row, : mixture.used] = rng.permutation(chosen[: mixture.used])
        route[row, mixture.used :] = rng.dirichlet(np.ones(mixture.used))
    return placed(route)


def where(mixture: Mixture, kernels: Kernels, name: str, route: Array, n: int) -> tuple[Array, Array]:
    """Tiles and pairs as the kernel has them."""
    tiles = placed(np.full((1 + mixture.tiles, 4), 77, np.int32))
    pairs = placed(np.full(mixture.places, 77, np.int32))
    kernels.run(f"{name}_places", route, tiles, pairs, step(n))
    return tiles, pairs


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("n", [1, 11, 10**9], ids=["one", "some", "all"])
def test_places(kernels: Kernels, name: str, n: int) -> None:
    """Every expert's pairs in order from a multiple of eight on, cut into tiles; nothing behind the last."""
    mixture = MIXTURES[name]
    n = min(n, mixture.rows)
    route = random_route(mixture, n, np.random.default_rng([n, *name.encode()]))
    tiles, pairs = where(mixture, kernels, name, route, n)
    chosen = route[:n, : mixture.used].reshape(-1)
    expected, places = [], np.full(mixture.places, NO_PAIR)
    at = 0
    for expert in range(mixture.experts):
        own = np.flatnonzero(chosen == expert)
        places[at : at + len(own)] = own
        for first in range(0, len(own), mixture.tile):
            expected.append([expert, at + first, at + min(first + mixture.tile, len(own)), 0])
        at += -(-len(own) // 8) * 8
    np.testing.assert_array_equal(pairs, places)
    assert tiles[0, 2] == len(expected)
    np.testing.assert_array_equal(tiles[1 : 1 + len(expected)], expected)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("n", [1, 11, 10**9], ids=["one", "some", "all"])
def test_mixture(kernels: Kernels, name: str, n: int) -> None:
    """The whole of it: encoded by pairs, gates and what they multiply, encoded again, multiplied, combined."""
    mixture = MIXTURES[name]
    n, used = min(n, mixture.rows), mixture.used
    rng = np.random.default_rng([n, *name.encode()])
    route = random_route(mixture, n, rng)
    tiles, pairs = where(mixture, kernels, name, route, n)
    planes, meant = {}, {}
    for which in ("gate", "up", "down"):
        fmt, rows, cols = mixture.of(which)
        raw = random_rows(format_named(fmt), mixture.experts * rows, cols, rng)
        layout, tile, _ = mixture.matrix(which)
        assert rows % tile.rows == 0, "no tile has rows of two experts"
        planes[which] = placed(layout.pack(format_named(fmt), raw, tile))
        meant[which] = format_named(fmt).dequantize(raw).astype(np.float64).reshape(mixture.experts, rows, cols)
    bias = {
        "gate": rng.standard_normal((mixture.experts, mixture.width)).astype(np.float32),
        "down": rng.standard_normal((mixture.experts, mixture.hidden)).astype(np.float32),
    }
    x = placed((rng.standard_normal((mixture.rows, mixture.hidden)) * 3).astype(np.float32))
    weight = placed(rng.uniform(0.5, 2, mixture.hidden).astype(np.float32))
    x[n:] = np.nan

    def encoded(stage: str, values: Array, cols: int) -> tuple[Array, Array]:
        panels = placed(np.full((2 * -(-cols // 128), mixture.places, 64), np.nan, np.float16))
        factors = placed(np.full(mixture.places, np.nan, np.float32))
        kernels.run(f"{name}_{stage}", values, weight, panels, factors, pairs, step(n))
        return panels, factors

    panels, factors = encoded("gather", x, mixture.hidden)
    owned = np.flatnonzero(pairs != NO_PAIR)
    normed = x[:n] / np.sqrt(np.mean(x[:n].astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-5) * weight
    read = values_of(panels)[owned, : mixture.hidden] * factors[owned, None]
    np.testing.assert_allclose(read, normed[pairs[owned] // used], rtol=2**-10, atol=1e-3)

    gated = placed(np.full((mixture.rows, used, mixture.width), np.nan, np.float32))
    kernels.run(
        f"{name}_gate_up", panels, factors, planes["gate"], planes["up"], placed(bias["gate"]), tiles, pairs, gated
    )
    chosen = np.nan_to_num(route[:, :used]).astype(int)
    gate = np.einsum("nuwh,nh->nuw", meant["gate"][chosen[:n]], normed) + bias["gate"][chosen[:n]]
    up = np.einsum("nuwh,nh->nuw", meant["up"][chosen[:n]], normed)
    with np.errstate(over="ignore"):
        truth = GATES[GATE](gate) * up
    assert np.sqrt(np.mean((gated[:n] - truth) ** 2)) < 2e-3 * np.sqrt(np.mean(truth**2))
    assert np.isnan(gated[n:]).all()

    panels, factors = encoded("each", gated, mixture.width)
    results = placed(np.full((mixture.rows, used, mixture.hidden), np.nan, np.float32))
    kernels.run(f"{name}_down", panels, factors, planes["down"], placed(bias["down"]), tiles, pairs, results)
    down = np.einsum("nuhw,nuw->nuh", meant["down"][chosen[:n]], gated[:n].astype(np.float64))
    down += bias["down"][chosen[:n]]
    assert np.sqrt(np.mean((results[:n] - down) ** 2)) < 2e-3 * np.sqrt(np.mean(down**2))
    assert np.isnan(results[n:]).all()

    y = placed(rng.standard_normal((mixture.rows, mixture.hidden)).astype(np.float32))
    before = y.copy()
    kernels.run(f"{name}_combine", results, route, y, step(n))
    sums = np.einsum("nuh,nu->nh", results[:n].astype(np.float64), route[:n, used:])
    np.testing.assert_allclose(y[:n], before[:n] + 0.5 * sums, rtol=1e-5, atol=1e-5 * np.abs(sums).max())
    np.testing.assert_array_equal(y[n:], before[n:])
