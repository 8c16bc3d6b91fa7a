"""plan_state: what a model's layers remember of a sequence, and where it lies in a block of the paged cache."""

from __future__ import annotations

from imp_codegen.graph import Graph, label
from imp_codegen.kernels.family import FusionError
from imp_codegen.kernels.state import CacheLayer, CachePlan
from imp_codegen.ops import Attention


def plan_state(graph: Graph) -> CachePlan:
    """A part of each block for every attention, in order; FusionError at one that names another layer than its own."""
    found = [op for op in graph.ops if isinstance(op, Attention)]
    layers: list[CacheLayer] = []
    offset = 0
    for index, op in enumerate(found):
        if op.layer != index:
            raise FusionError(f"{label(op)}: uses layer {op.layer} of the cache, but its own is {index}")
        layers.append(CacheLayer("f16", op.kv_heads, op.head_dim, offset))
        offset += layers[-1].nbytes
    return CachePlan(tuple(layers))
