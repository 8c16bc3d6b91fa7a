"""Tensors to packed planes, streamed: at most a few megabytes of a tensor are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.rope import RopeSpec, rope_turns, turns_plane
from imp_codegen.sources import Stored
from imp_runtime.plan import Plane

_CHUNK_BYTES = 8 << 20
_WORKERS = 2
Bytes = NDArray[np.uint8]


def planes(placed: Mapping[str, Placed], ropes: tuple[RopeSpec, ...]) -> tuple[Plane, ...]:
    """Every plane of the artifact, in the order in which they are written."""
    pairs = [rope.dim // 2 for rope in ropes]
    turns = (Plane(turns_plane(i), "U64", VECTOR, 1, count, count * 8) for i, count in enumerate(pairs))
    return (*(p.plane for p in placed.values()), *turns)


def pack(
    placed: Mapping[str, Placed],
    weights: Mapping[str, Stored],
    ropes: tuple[RopeSpec, ...],
    packed: Callable[[int], None],
) -> Iterator[tuple[str, Iterator[Bytes]]]:
    """The planes' bytes, in the order of `planes`. `packed` is told the number of bytes after each piece."""
    with ThreadPoolExecutor(_WORKERS) as workers:
        for item in placed.values():
            yield item.plane.name, _counted(_pack_one(item, weights[item.weight.name], workers), packed)
        for index, rope in enumerate(ropes):
            yield turns_plane(index), _counted(iter([rope_turns(rope).view(np.uint8)]), packed)


def _counted(chunks: Iterator[Bytes], packed: Callable[[int], None]) -> Iterator[Bytes]:
    for chunk in chunks:
        yield chunk
        packed(chunk.nbytes)


def _pack_one(item: Placed, stored: Stored, workers: ThreadPoolExecutor) -> Iterator[Bytes]:
    layout, tile = item.layout, item.tile
    if layout is None or tile is None:
        yield np.ascontiguousarray(item.format.dequantize(stored.rows(0, 1))).reshape(-1).view(np.uint8)
        return
    row_bytes = item.format.row_bytes(item.weight.cols)
    step = max(1, _CHUNK_BYTES // (row_bytes * tile.rows)) * tile.rows
    starts = range(0, item.weight.rows, step)

    def piece(start: int) -> Bytes:
        return layout.pack(item.format, stored.rows(start, min(start + step, item.weight.rows)), tile)

    # One round of pieces at a time keeps memory bounded and both cores busy.
    for first in range(0, len(starts), _WORKERS):
        yield from workers.map(piece, starts[first : first + _WORKERS])
