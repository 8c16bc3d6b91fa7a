"""place_weights: choose for every tensor the layout and tile in which the artifact holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imp_codegen.checkpoint import CheckpointError
from imp_codegen.graph import Graph, Weight
from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.quant import PRODUCT_COLS, choose_tile, plane_bytes
from imp_codegen.sources import Stored
from imp_runtime.plan import Plane


def place_weights(graph: Graph, stored: Mapping[str, Stored], path: Path) -> Mapping[str, Placed]:
    """Every weight of the graph, in order of use; CheckpointError if one has another shape. `path` is for errors."""
    return {weight.name: _place(weight, stored[weight.name], path) for weight in graph.weights().values()}


def _place(weight: Weight, stored: Stored, path: Path) -> Placed:
    vector = weight.rows == 1
    expected = (weight.cols,) if vector else (weight.rows, weight.cols)
    fmt = stored.format
    if stored.shape != expected:
        raise CheckpointError(f"{path}: {weight.name} has shape {list(stored.shape)}, expected {list(expected)}")
    if vector:
        if fmt.block != 1:
            raise CheckpointError(f"{path}: {weight.name} is {fmt.name}; a vector must be F32, F16 or BF16")
        return Placed(weight, fmt, None, Plane(weight.name, fmt.name, VECTOR, 1, weight.cols, weight.cols * 4))
    if weight.cols % PRODUCT_COLS:
        raise CheckpointError(
            f"{path}: {weight.name} has rows of {weight.cols} weights; supported are multiples of {PRODUCT_COLS}"
        )
    tile = choose_tile(fmt, weight.cols)
    nbytes = plane_bytes(fmt, weight.rows, weight.cols, tile)
    layout = f"{fmt.layout}:{tile.rows}x{tile.cols}"
    return Placed(weight, fmt, tile, Plane(weight.name, fmt.name, layout, weight.rows, weight.cols, nbytes))
