"""Products of every head's own matrix on the CPU in check mode (random thread order, races, bounds), against numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from imp_codegen.formats import format_named
from imp_codegen.layouts import Layout, Tile, choose_tile, layout_for
from random_rows import place, random_rows

Array = NDArray[Any]
BEYOND = 5  # floats between one token's results and the next one's


@dataclass(frozen=True)
class Heads:
    """`count` matrices [rows, cols] one below the other, in a format."""

    name: str
    fmt: str
    count: int
    rows: int
    cols: int

    def place(self) -> tuple[Layout, Tile, str]:
        fmt, rows = format_named(self.fmt), self.count * self.rows
        return place(fmt, rows, self.cols, choose_tile(layout_for(fmt, rows, self.cols, ()), self.cols, rows))

    def source(self) -> str:
        matrix = self.place()[2]
        width = self.count * self.rows + BEYOND
        strides = f".x_stride = {self.count * self.cols}, .out_stride = {width}, .out_head = {self.rows}"
        product = f"imp::HeadProductConfig{{.heads = {self.count}, .warps = 3, .grid = 5, {strides}}}"
        tiles = f"imp::HeadRowsConfig{{.heads = {self.count}, {strides}}}"
        inputs = "const std::uint8_t* plane, const float* x, const imp::StepHeader* step, float* out"
        return "".join(
            f"using {self.name}_{kind} = imp::{stage};\n"
            f'extern "C" {{ int {self.name}_{kind}_bytes = {self.name}_{kind}::kSharedBytes; }}\n'
            f'extern "C" __global__ void {self.name}_{kind}_run({inputs}) {{\n'
            f"  {self.name}_{kind}::run({{plane, x, step, out}});\n}}\n"
            for kind, stage in (
                ("warps", f"HeadProduct<{product}, {matrix}>"),
                ("tiles", f"HeadRows<{tiles}, {matrix}>"),
            )
        )


def drawn(seed: int) -> Heads:
    """Any number of heads, and of rows of each: whole tiles, less than one, and what is left over."""
    rng = np.random.default_rng([seed, 6])
    fmt = str(rng.choice(["Q8_0", "Q5_0", "F16", "Q6_K"]))
    count, rows, blocks = (int(rng.integers(1, most)) for most in (8, 140, 4))
    return Heads(f"drawn_{seed}", fmt, count, rows, max(format_named(fmt).block, 8) * blocks)


CASES = [
    Heads("whole", "Q8_0", 2, 64, 128),
    Heads("beyond", "BF16", 3, 80, 48),
    Heads("small", "Q4_K", 2, 24, 256),
    *(drawn(seed) for seed in range(3)),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("heads")
    layouts = (*sorted({f"layout/{case.place()[0].name.lower()}" for case in CASES}),)
    headers = "".join(f'#include "imp/{each}.h"\n' for each in (*layouts, "stage/head_product", "stage/head_rows"))
    (folder / "heads.cu").write_text(headers + "".join(case.source() for case in CASES), "utf-8")
    return SimLibrary(compile_sim(folder / "heads.cu", folder, "check"))


@pytest.mark.parametrize("kind", ["warps", "tiles"])
@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_head_has_its_own_matrix(library: SimLibrary, case: Heads, tokens: int, kind: str) -> None:
    rng = np.random.default_rng([tokens, *case.name.encode()])
    fmt, (layout, tile, _) = format_named(case.fmt), case.place()
    stored = random_rows(fmt, case.count * case.rows, case.cols, rng)
    x = np.full((tokens + 2, case.count, case.cols), np.nan, np.float32)
    x[:tokens] = rng.standard_normal((tokens, case.count, case.cols))
    out = aligned(np.full((tokens + 2, case.count * case.rows + BEYOND), 77, np.float32))
    grid = (case.count * -(-case.rows // 64), -(-(tokens + 2) // 64), 1) if kind == "tiles" else (5, 1, 1)
    step = aligned(np.array([tokens, 1, 0, 0], np.int32))
    library.configure(order=2, seed=tokens)
    arguments = [aligned(layout.pack(fmt, stored, tile)), aligned(x), step, out]
    entry, threads = f"{case.name}_{kind}", 256 if kind == "tiles" else 96
    assert library.launch(f"{entry}_run", arguments, grid, threads, library.integer(f"{entry}_bytes")) == ""

    weights = fmt.dequantize(stored).astype(np.float64).reshape(case.count, case.rows, case.cols)
    truth = np.einsum("thc,hrc->thr", x[:tokens].astype(np.float64), weights).reshape(tokens, -1)
    scale = np.sqrt(np.mean(truth**2))
    np.testing.assert_allclose(out[:tokens, :-BEYOND], truth, atol=2e-6 * scale, rtol=1e-6)
    assert np.all(out[tokens:] == 77)
    assert np.all(out[:, -BEYOND:] == 77)
