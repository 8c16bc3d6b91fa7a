"""place_weights: choose for every tensor the layout and tile in which the artifact holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from imp_codegen.checkpoint import CheckpointError
from imp_codegen.formats import FormatError
from imp_codegen.graph import Graph, Weight
from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.layouts import PRODUCT_COLS, choose_tile, layout_for, plane_bytes
from imp_codegen.stored import Stored
from imp_runtime.plan import Plane


def place_weights(
    graph: Graph, stored: Mapping[str, Stored], path: Path, targets: Collection[str]
) -> Mapping[str, Placed]:
    """Every weight of the graph, in order of use, in a layout that all targets have, as one plane is for all of them.

    CheckpointError if one has another shape, or a format that cannot be laid out so. `path` is for errors.
    """
    return {weight.name: _place(weight, stored[weight.name], path, targets) for weight in graph.weights().values()}


def _place(weight: Weight, stored: Stored, path: Path, targets: Collection[str]) -> Placed:
    vector = weight.rows == 1
    fmt = stored.format
    if stored.shape != weight.shape:
        raise CheckpointError(f"{path}: {weight.name} has shape {list(stored.shape)}, expected {list(weight.shape)}")
    if vector:
        if not fmt.one_by_one:
            raise CheckpointError(f"{path}: {weight.name} is {fmt.name}; a vector must be F32, F16 or BF16")
        return Placed(weight, fmt, None, None, Plane(weight.name, fmt.name, VECTOR, 1, weight.cols, weight.cols * 4))
    if weight.cols % PRODUCT_COLS:
        raise CheckpointError(
            f"{path}: {weight.name} has rows of {weight.cols} weights; supported are multiples of {PRODUCT_COLS}"
        )
    try:
        layout = layout_for(fmt, weight.rows, weight.cols, targets)
    except FormatError as error:
        raise CheckpointError(f"{path}: {weight.name} is {fmt.name}, but {error}") from None
    tile = choose_tile(layout, weight.cols, weight.each if weight.experts else 0)
    nbytes = plane_bytes(layout, weight.rows, weight.cols, tile)
    place = f"{layout.name}:{tile.rows}x{tile.cols}"
    return Placed(weight, fmt, layout, tile, Plane(weight.name, fmt.name, place, weight.rows, weight.cols, nbytes))
