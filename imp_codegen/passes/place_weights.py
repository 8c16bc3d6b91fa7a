"""place_weights: choose for every tensor the layout and tile in which the artifact holds it."""

from __future__ import annotations

from collections.abc import Mapping

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.graph import Graph, Weight
from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.quant import PRODUCT_COLS, choose_tile, formats, plane_bytes
from imp_runtime.plan import Plane


def place_weights(graph: Graph, checkpoint: Checkpoint) -> Mapping[str, Placed]:
    """Every weight of the graph, in order of use; CheckpointError if a tensor is missing or has another shape."""
    return {weight.name: _place(weight, checkpoint) for weight in graph.weights().values()}


def _place(weight: Weight, checkpoint: Checkpoint) -> Placed:
    tensor = checkpoint.tensors.get(weight.name)
    if tensor is None:
        raise CheckpointError(f"{checkpoint.path}: tensor {weight.name!r} is missing; the file is incomplete")
    vector = weight.rows == 1
    expected = (weight.cols,) if vector else (weight.rows, weight.cols)
    if tensor.shape != expected:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {weight.name!r} has shape {list(tensor.shape)}, expected {list(expected)}"
        )
    fmt = formats()[tensor.format]
    if vector:
        if fmt.block != 1:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {weight.name!r} is {fmt.name}; a vector must be F32, F16 or BF16"
            )
        return Placed(weight, fmt, None, Plane(weight.name, fmt.name, VECTOR, 1, weight.cols, weight.cols * 4))
    if weight.cols % PRODUCT_COLS:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {weight.name!r} has rows of {weight.cols} weights; "
            f"supported are multiples of {PRODUCT_COLS}"
        )
    tile = choose_tile(fmt, weight.cols)
    nbytes = plane_bytes(fmt, weight.rows, weight.cols, tile)
    layout = f"{fmt.layout}:{tile.rows}x{tile.cols}"
    return Placed(weight, fmt, tile, Plane(weight.name, fmt.name, layout, weight.rows, weight.cols, nbytes))
