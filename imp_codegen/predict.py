"""The cost model: how long a launch should take on a card, from what was measured on it or on one like it."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Protocol

from imp_codegen.cards import Card, Speed
from imp_codegen.layouts import Tile
from imp_runtime.plan import CacheRead, Tiles

_REACHED = {"nvfp4": 0.64}  # CUTLASS on an RTX 5090 at 8,192 cubed, 1,284 TFLOP/s, as others have measured it


class Costs(Protocol):
    """What a launch reads and computes: of a planned kernel, or of one that is only considered."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """CTAs."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights."""
        ...

    @property
    def other_bytes(self) -> int:
        """All other bytes, but those of the cache."""
        ...

    @property
    def cache_reads(self) -> tuple[CacheRead, ...]:
        """What it reads of the cache."""
        ...

    @property
    def tiles(self) -> Tiles | None:
        """What its CTAs go through on tensor cores; None where reading is all that counts."""
        ...

    @property
    def phases(self) -> int:
        """Steps that each need all of the one before."""
        ...


def predict_us(card: Card, kernels: Iterable[Costs], positions: int = 1) -> float:
    """Predicted microseconds of launches that follow one another, for a sequence of so many positions, theirs included.

    Each takes the larger of streaming and tiles, and overheads. ValueError for a card that is the simulator.
    """
    return sum(launch_us(card, kernel, positions) for kernel in kernels)


def launch_us(card: Card, kernel: Costs, positions: int = 1) -> float:
    """The same of one launch."""
    speed = _speed(card)
    streaming = launch_bytes(kernel, positions) / (speed.bandwidth * 1e3)
    return max(streaming, _tiles_us(card, kernel, positions)) + speed.launch_us + (kernel.phases - 1) * speed.phase_us


def step_tiles_us(card: Card, matrices: Iterable[tuple[int, int, Tile]]) -> float:
    """What tiles of matrices (rows, columns, tile) take multiprocessors in the step kernel, whatever memory does."""
    by = card.formulas
    times = (
        rows * cols / (tile.rows * tile.cols) * (by.step_tile_us + (tile.rows - 1) * by.step_row_us)
        for rows, cols, tile in matrices
    )
    return sum(times) / card.sms


def launch_bytes(kernel: Costs, positions: int) -> int:
    """Bytes that a launch must move: as planned, and of the cache what it reads at so many positions."""
    return kernel.weight_bytes + kernel.other_bytes + sum(read.nbytes(positions) for read in kernel.cache_reads)


def tile_us(card: Card, tiles: Tiles) -> float:
    """What a multiprocessor takes for a tile: as measured, or as on the card like it.

    There, what the tensor cores do is scaled by their rate, and the rest, which is instructions, by the clock. A tile
    that nobody has measured takes what the tensor cores need for it, by the share of their rate that others report.
    """
    speed = _speed(card)
    if tiles.kind in speed.tiles:
        return speed.tiles[tiles.kind]
    here = _mma_us(card, tiles)
    if card.like is None or tiles.mma not in _speed(card.like).rates:
        return here / _REACHED.get(tiles.mma, 1)
    there = _speed(card.like)
    return (tile_us(card.like, tiles) - _mma_us(card.like, tiles)) * there.clock / speed.clock + here


def _tiles_us(card: Card, kernel: Costs, positions: int) -> float:
    """Waves of CTAs, one a multiprocessor at a time, each through its tiles; or all tiles shared evenly."""
    tiles = kernel.tiles
    if tiles is None:
        return 0.0
    ctas, each = tiles.ctas or prod(kernel.grid), tiles.count(positions)
    steps = max(ceil(ctas * each / card.sms), min(each, tiles.shared)) if tiles.shared else ceil(ctas / card.sms) * each
    return steps * tile_us(card, tiles)


def _mma_us(card: Card, tiles: Tiles) -> float:
    """What the tensor cores take; where they have no such instruction it is made of halfs (ptx/isa_fp4.h)."""
    rates = _speed(card).rates
    return tiles.ops / (rates.get(tiles.mma, rates["f16"]) / card.sms * 1e6)


def _speed(card: Card) -> Speed:
    if card.speed is None:
        raise ValueError(f"{card.title}: its times mean nothing")
    return card.speed
