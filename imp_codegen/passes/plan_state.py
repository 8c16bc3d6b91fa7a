"""plan_state: what a model's layers remember of a sequence, and where it lies in a block of the paged cache."""

from __future__ import annotations

from imp_codegen.cache import CacheFormat
from imp_codegen.graph import Graph, label
from imp_codegen.kernels.family import FusionError
from imp_codegen.kernels.state import CacheLayer, CachePlan
from imp_codegen.ops import Attention


def plan_state(graph: Graph, rows: CacheFormat) -> CachePlan:
    """A part of each block for every attention that appends to it, in order, all with such rows.

    FusionError at one that names another layer than its own, and at one that appends nothing and finds no such heads.
    """
    found = [op for op in graph.ops if isinstance(op, Attention)]
    layers: list[CacheLayer] = []
    offset = 0
    for op in found:
        if op.k is None:
            if op.layer >= len(layers):
                raise FusionError(f"{label(op)}: reads layer {op.layer} of the cache, to which nothing was appended")
            if (part := layers[op.layer]) and (part.kv_heads, part.head_dim) != (op.kv_heads, op.head_dim):
                raise FusionError(
                    f"{label(op)}: reads {op.kv_heads} heads of {op.head_dim} elements in layer {op.layer} of the "
                    f"cache, which has {part.kv_heads} of {part.head_dim}"
                )
            continue
        if op.layer != len(layers):
            raise FusionError(f"{label(op)}: uses layer {op.layer} of the cache, but its own is {len(layers)}")
        layers.append(CacheLayer(rows, op.kv_heads, op.head_dim, offset))
        offset += layers[-1].nbytes
    return CachePlan(tuple(layers))
