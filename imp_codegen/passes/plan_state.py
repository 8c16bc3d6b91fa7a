"""plan_state: what a model's layers remember of a sequence."""

from __future__ import annotations

from imp_codegen.graph import Graph, label
from imp_codegen.kernels.family import FusionError
from imp_codegen.ops import Attention
from imp_runtime.plan import KvSpec


def cache_of(graph: Graph) -> KvSpec:
    """The KV cache of a model; FusionError at an attention that needs another layer's part of it, or a larger one."""
    found = [op for op in graph.ops if isinstance(op, Attention)]
    kv = KvSpec(len(found), found[0].kv_heads, found[0].head_dim)
    for index, op in enumerate(found):
        if (op.layer, op.kv_heads, op.head_dim) != (index, kv.kv_heads, kv.head_dim):
            raise FusionError(
                f"{label(op)}: keeps {op.kv_heads} heads of {op.head_dim} as layer {op.layer} of the cache, which has "
                f"{kv.kv_heads} heads of {kv.head_dim} and layer {index} free"
            )
    return kv
