"""How many instructions a weight takes in decode, as each layout says of itself and as ptxas makes of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from test_sass import instructions

from imp_codegen.build import Unit, build
from imp_codegen.formats import Format, formats
from imp_codegen.layouts import Layout, layouts

COLS, ROWS = 2048, (1, 5)
ACTIVATIONS = {"q8": "Q8Activations", "f16": "HalfActivations", "bf16": "FloatActivations"}
# A warp multiplies rows of a tile in shared memory with a vector that it holds in registers.
KERNEL = """
extern "C" __global__ void {name}_{rows}(const std::uint8_t* plane, const imp::{activations}* x, float* y) {{
  using L = imp::{name}<imp::TileShape{{{rows}, {cols}}}{arguments}>;
  extern __shared__ std::uint8_t tile[];
  for (int i = threadIdx.x; i < L::kTileBytes; i += blockDim.x) tile[i] = plane[i];
  __syncthreads();
  float sums[{rows}] = {{}};
#pragma unroll
  for (int v = 0; v < {cols} / imp::kWarp / L::kVector; v++) {{
    const int vector = imp::lane_index() + v * imp::kWarp;
    const auto in = L::input(*x, vector);
#pragma unroll
    for (int r = 0; r < {rows}; r++) {{
      sums[r] = L::dot(L::template load<imp::Landed>(tile, r, vector), in, vector, sums[r]);
    }}
  }}
#pragma unroll
  for (int r = 0; r < {rows}; r++) y[r * imp::kWarp + imp::lane_index()] = sums[r];
}}
"""


def kernels(layout: Layout) -> str:
    """Of the format that the layout is called after, or of one that it takes."""
    taken: list[Format] = [fmt for fmt in formats().values() if layout.arguments(fmt) is not None]
    fmt = next((each for each in taken if each.name == layout.name), taken[0])
    arguments = "".join(f", {argument}" for argument in layout.arguments(fmt) or ())
    activations = ACTIVATIONS[layout.activation]
    return f'#include "imp/layout/{layout.name.lower()}.h"\n' + "".join(
        KERNEL.format(name=layout.name, rows=rows, cols=COLS, arguments=arguments, activations=activations)
        for rows in ROWS
    )


def said(layout: Layout) -> float:
    """By its module."""
    module = importlib.import_module(f"{layouts.__module__}.{layout.name.lower()}")
    (found,) = re.findall(r"([\d.]+)\s+instructions\s+a\s+weight", module.__doc__ or "")
    return float(found)


@pytest.mark.thorough
def test_layouts_say_what_a_weight_takes(tmp_path: Path) -> None:
    (built,) = build((Unit("sm_120a", "nvcc", "".join(map(kernels, layouts().values()))),))
    sass = instructions(built.code, tmp_path)
    few, many = ROWS
    wrong = {}
    for name, layout in layouts().items():
        counts = [sum(each != "NOP" for each in sass[f"{name}_{rows}"]) for rows in ROWS]
        each_row = (counts[1] - counts[0]) / (many - few) - 1  # the store of its sum
        found = each_row * 32 / COLS  # of a lane's weights
        if found != pytest.approx(said(layout), rel=0.02):
            wrong[name] = (round(found, 2), said(layout))
    assert wrong == {}
