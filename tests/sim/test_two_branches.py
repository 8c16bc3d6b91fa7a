"""Two branches' norms, the norm of their sum and the residual stream, in check mode against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sim_library import SimLibrary, aligned, compile_sim

COLS, ROWS, EPS = 132, 3, (1e-6, 1e-2, 0.5)
# Warps: fewer than the columns' quarters have, so that threads take several, and more.
CASES = {"one": (1, False, True), "several": (2, True, False)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("branches")
    (folder / "branches.cu").write_text('#include "imp/stage/two_branches.h"\n' + "".join(map(source, CASES)), "utf-8")
    return SimLibrary(compile_sim(Path(folder / "branches.cu"), folder, "check"))


def source(name: str) -> str:
    warps, scaled, one = CASES[name]
    fields = f".first_eps = {EPS[0]}f, .second_eps = {EPS[1]}f, .eps = {EPS[2]}f, .scaled = {str(scaled).lower()}"
    return f"""
using {name} = imp::TwoBranches<imp::TwoBranchesConfig{{.cols = {COLS}, .warps = {warps}, {fields},
                                                     .one = {str(one).lower()}}}>;
extern "C" {{
int {name}_shared = {name}::kSharedBytes;
__global__ void {name}_run(float* stream, const float* first, const float* second, const float* norms,
                           const float* scale, const imp::StepHeader* step) {{
  {name}::run({{stream, first, second, norms, norms + {COLS}, norms + 2 * {COLS}, scale, step}});
}}
}}
"""


def normed(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * weight


@pytest.mark.parametrize("name", CASES)
def test_two_branches(library: SimLibrary, name: str) -> None:
    warps, scaled, one = CASES[name]
    rows, rng = 1 if one else ROWS, np.random.default_rng(3)
    stream, first, second = rng.standard_normal((3, rows, COLS)) * np.array([[[1.0]], [[30.0]], [[0.1]]])
    norms, scale = rng.uniform(0.5, 1.5, (3, COLS)), np.array([0.7])
    library.configure(order=2, seed=11)
    given = (stream, first, second, norms, scale)
    held = [aligned(each.astype(np.float32)) for each in given] + [aligned(np.array([rows, 0, 0, 0], np.int32))]
    grid = (1 if one else rows + 1, 1, 1)  # a row more than there are
    assert library.launch(f"{name}_run", held, grid, warps * 32, library.integer(f"{name}_shared")) == ""
    both = normed(first, norms[0], EPS[0]) + normed(second, norms[1], EPS[1])
    want = (stream + normed(both, norms[2], EPS[2])) * (scale if scaled else 1)
    np.testing.assert_allclose(held[0], want, rtol=2e-5, atol=2e-6)
