"""Random rows of every storage format, as a file holds them, and where its scales are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import Format, format_named
from imp_codegen.layouts import Layout, Tile, choose_tile, layout_for

# Of a format's blocks: where its float16 scales begin.
HALFS = {
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    **dict.fromkeys(("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S"), (0,)),
    "IQ1_M": (),
    "TQ2_0": (64,),
    "TQ1_0": (52,),
}
# And those that are a byte, an exponent or an e4m3.
BYTES = {"MXFP4": (0,), "NVFP4": (0, 1, 2, 3)}


def random_rows(fmt: Format, rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8[rows, row bytes]: normal floats, or random codes with finite scales of both signs."""
    if fmt.name in ("F32", "F16", "BF16"):
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        wide = values.view(np.uint32)
        stored = {"F32": values, "F16": values.astype(np.float16), "BF16": (wide >> 16).astype(np.uint16)}[fmt.name]
        return np.ascontiguousarray(stored).view(np.uint8).reshape(rows, -1)
    if fmt.name in ("F8_E4M3", "FP8_BLOCKS", "FP8_ROWS"):
        codes = rng.integers(0, 254, (rows, cols), dtype=np.uint8)
        codes += codes >= 0x7F  # which is no number, as 0xff
        scales = (fmt.row_bytes(cols) - cols) // 4
        drawn = (rng.standard_normal((rows, scales)) * 1e-4).astype("<f4")  # below what a half holds well
        return np.hstack([codes, drawn.view(np.uint8)])
    if fmt.name in ("NVFP4_TENSORS", "MXFP4_TENSORS"):
        codes = rng.integers(0, 256, (rows, cols // 2), dtype=np.uint8)
        if fmt.name == "MXFP4_TENSORS":
            return np.hstack([codes, rng.integers(115, 124, (rows, cols // 32), dtype=np.uint8)])
        scales = rng.integers(0, 40, (rows, cols // 16), dtype=np.uint8)
        return np.hstack([codes, scales, rng.uniform(0.25, 2, (rows, 1)).astype("<f4").view(np.uint8)])
    if fmt.of:
        factors = rng.uniform(0.25, 2, (rows, 1)).astype("<f4")
        return np.hstack([random_rows(format_named(fmt.of[0]), rows, cols, rng), factors.view(np.uint8)])
    raw = rng.integers(0, 256, (rows, fmt.row_bytes(cols)), dtype=np.uint8)
    blocks = raw.reshape(-1, fmt.block_bytes)
    for at in BYTES.get(fmt.name, ()):
        blocks[:, at] = rng.integers(115, 124, len(blocks)) if fmt.name == "MXFP4" else rng.integers(0, 40, len(blocks))
    set_halfs(fmt.name, blocks, lambda: rng.standard_normal(len(blocks)) * 0.01)
    return raw


def set_halfs(name: str, blocks: NDArray[np.uint8], draw: Callable[[], NDArray[np.float64]]) -> None:
    """Give blocks of a format uint8[n, bytes] the float16 scales that `draw` makes, float64[n]."""
    for at in HALFS.get(name, ()):
        blocks[:, at : at + 2] = draw().astype("<f2")[:, None].view(np.uint8)
    if name == "IQ1_M":  # whose scale is the upper nibbles of four uint16
        words = blocks[:, 48:].view("<u2")
        bits = draw().astype("<f2").view("<u2")[:, None] >> np.arange(0, 16, 4, dtype=np.uint16)
        words[:] = words & 0x0FFF | bits << 12


def place(fmt: Format, rows: int, cols: int, tile: Tile | None = None) -> tuple[Layout, Tile, str]:
    """The layout of a matrix, its tile, unless given, and the C++ type of the matrix."""
    layout = layout_for(fmt, rows, cols, ())
    tile = tile or choose_tile(layout, cols)
    arguments = "".join(f", {argument}" for argument in layout.arguments(fmt) or ())
    shape = f"imp::TileShape{{{tile.rows}, {tile.cols}}}"
    return layout, tile, f"imp::Matrix<imp::{layout.name}<{shape}{arguments}>, {rows}, {cols}>"
