"""plan_state: what a model's layers remember of a sequence, and where it lies in the blocks of the paged cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from imp_codegen.cache import CacheFormat
from imp_codegen.graph import Graph, label
from imp_codegen.kernels.family import FusionError
from imp_codegen.kernels.state import CacheGroup, CacheLayer, CachePlan
from imp_codegen.ops import Attention
from imp_runtime.paging import Paging, blocks_for

_WASTE = 1 / 16  # of a sequence's bytes may be lost to have fewer groups


def plan_state(graph: Graph, rows: CacheFormat, context: int, most: int) -> CachePlan:
    """A part of some group's blocks for every attention that appends to the cache, all with such rows.

    Layers with the same window make groups. `context`: of the longest sequence, in which a window may not matter;
    `most`: rows that a program runs.
    FusionError at an attention that names another layer than its own, and at one that appends nothing and finds no such
    heads.
    """
    layers, windows = _layers(graph, rows)
    kinds: dict[int, list[int]] = {}  # by window
    paging = Paging(tuple(windows), most, blocks_for(context))
    for layer, window in enumerate(windows):
        kinds.setdefault(window if paging.most(layer) < paging.longest else 0, []).append(layer)
    sizes = [[layers[layer].nbytes for layer in kind] for kind in kinds.values()]
    block_bytes = _block_bytes(sizes, Paging(tuple(kinds), most, blocks_for(context)))
    groups: list[CacheGroup] = []
    for (window, kind), each in zip(kinds.items(), sizes, strict=True):
        for first, end in _packed(each, block_bytes):
            for layer, offset in zip(kind[first:end], accumulate(each[first:end], initial=0), strict=False):
                layers[layer] = replace(layers[layer], group=len(groups), offset=offset)
            groups.append(CacheGroup(window, tuple(kind[first:end]), sum(each[first:end])))
    return CachePlan(tuple(layers), tuple(groups), block_bytes)


def _layers(graph: Graph, rows: CacheFormat) -> tuple[list[CacheLayer], list[int]]:
    """Of each layer its part, and the window of those who read it: the widest, 0 where one sees all."""
    layers: list[CacheLayer] = []
    windows: list[int] = []
    for op in (op for op in graph.ops if isinstance(op, Attention)):
        if op.k is None:
            if op.layer >= len(layers):
                raise FusionError(f"{label(op)}: reads layer {op.layer} of the cache, to which nothing was appended")
            if (part := layers[op.layer]) and (part.kv_heads, part.head_dim, part.tied) != (
                op.kv_heads,
                op.head_dim,
                bool(op.latent),
            ):
                raise FusionError(
                    f"{label(op)}: reads {op.kv_heads} heads of {op.head_dim} elements in layer {op.layer} of the "
                    f"cache, which has {part.kv_heads} of {part.head_dim}"
                )
            windows[op.layer] = max(op.window, windows[op.layer]) if op.window and windows[op.layer] else 0
            continue
        if op.layer != len(layers):
            raise FusionError(f"{label(op)}: uses layer {op.layer} of the cache, but its own is {len(layers)}")
        layers.append(CacheLayer(rows, op.kv_heads, op.head_dim, tied=bool(op.latent)))
        windows.append(op.window)
    return layers, windows


def _block_bytes(kinds: Sequence[Sequence[int]], paging: Paging) -> int:
    """Bytes of a block of any group, where kinds of layers, a group of `paging` each, have parts of so many bytes.

    The one that makes the fewest groups among those that lose little to what does not fit.
    """
    largest = max(nbytes for kind in kinds for nbytes in kind)
    candidates = sorted({nbytes for kind in kinds for nbytes in accumulate(kind) if nbytes >= largest})
    cost: dict[int, int] = {}
    count: dict[int, int] = {}
    for nbytes in candidates:
        groups = [sum(1 for _ in _packed(kind, nbytes)) for kind in kinds]
        count[nbytes] = sum(groups)
        cost[nbytes] = sum(n * nbytes * paging.most(kind) for kind, n in enumerate(groups))
    cheap = [nbytes for nbytes in candidates if cost[nbytes] <= min(cost.values()) * (1 + _WASTE)]
    return min(cheap, key=lambda nbytes: (count[nbytes], cost[nbytes]))


def _packed(sizes: Sequence[int], block_bytes: int) -> Iterator[tuple[int, int]]:
    """Parts in order, as many to a block as fit: the first of each block and the one after its last."""
    first, used = 0, 0
    for index, nbytes in enumerate(sizes):
        if used + nbytes > block_bytes:
            yield first, index
            first, used = index, 0
        used += nbytes
    yield first, len(sizes)
