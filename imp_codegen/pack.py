"""Tensors to packed planes, on all cores, streamed: a few pieces of 8 MB for each core are in memory at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from imp_codegen.formats import format_named
from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.layouts import placement
from imp_codegen.rope import RopeSpec, rope_turns, turns_plane
from imp_codegen.stored import Stored
from imp_runtime.plan import Plane

_CHUNK_BYTES = 8 << 20
_MOST_WORKERS = 16  # beyond these they wait for Python's lock, and the disk for none of them
Bytes = NDArray[np.uint8]
Piece = Callable[[], Bytes]


def planes(placed: Mapping[str, Placed], ropes: tuple[RopeSpec, ...]) -> tuple[Plane, ...]:
    """Every plane of the artifact, in the order in which they are written."""
    pairs = [rope.dim // 2 for rope in ropes]
    turns = (Plane(turns_plane(i), "U64", VECTOR, 1, count, count * 8) for i, count in enumerate(pairs))
    return (*(p.plane for p in placed.values()), *turns)


def computed(ropes: tuple[RopeSpec, ...]) -> dict[str, Bytes]:
    """The planes that no checkpoint has, by name."""
    return {turns_plane(index): rope_turns(rope).view(np.uint8) for index, rope in enumerate(ropes)}


def counter(report: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """What is told the bytes of each piece, and reports how many of all are done."""
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(done, total)

    return count


def pack(
    wanted: Sequence[Plane],
    weight: Callable[[str], Stored],
    given: Mapping[str, Bytes],
    packed: Callable[[int], None] = lambda nbytes: None,
) -> Iterator[tuple[str, Iterator[Bytes]]]:
    """The bytes of planes, in pieces. `given` are those that are packed already; `weight` opens that of another.

    It is asked for a weight shortly before its rows are. `packed` is told the number of bytes after each piece.
    """
    count = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    workers = ThreadPoolExecutor(count, thread_name_prefix="imp-pack")
    counts: dict[str, int] = {}

    def pieces() -> Iterator[Piece]:
        for plane in wanted:
            here = plane.name in given
            found = [partial(given.__getitem__, plane.name)] if here else _pieces(plane, weight(plane.name))
            counts[plane.name] = len(found)
            yield from found

    try:
        made = _in_order(workers, pieces(), 2 * count)
        for plane in wanted:
            first = next(made)  # of this plane, so that its pieces have been counted
            rest = islice(made, counts[plane.name] - 1)
            yield plane.name, _counted(first, rest, packed)
    finally:
        workers.shutdown(cancel_futures=True)


def _in_order(workers: ThreadPoolExecutor, pieces: Iterator[Piece], most: int) -> Iterator[Bytes]:
    """The results of pieces in their order; so many are begun before the first is taken."""
    begun: deque[Future[Bytes]] = deque(workers.submit(piece) for piece in islice(pieces, most))
    while begun:
        result = begun.popleft().result()
        begun.extend(workers.submit(piece) for piece in islice(pieces, 1))
        yield result


def _counted(first: Bytes, rest: Iterator[Bytes], packed: Callable[[int], None]) -> Iterator[Bytes]:
    yield first
    packed(first.nbytes)
    for piece in rest:
        yield piece
        packed(piece.nbytes)


def _pieces(plane: Plane, stored: Stored) -> list[Piece]:
    """What makes the pieces of a plane, at least one."""
    fmt = format_named(plane.format)
    if plane.layout == VECTOR:
        return [lambda: np.ascontiguousarray(fmt.dequantize(stored.rows(0, 1))).reshape(-1).view(np.uint8)]
    layout, tile = placement(plane)
    step = max(1, _CHUNK_BYTES // (fmt.row_bytes(plane.cols) * tile.rows)) * tile.rows

    def piece(start: int) -> Bytes:
        return layout.pack(fmt, stored.rows(start, min(start + step, plane.rows)), tile)

    return [partial(piece, start) for start in range(0, plane.rows, step)]
