"""Storage formats: how the bytes of a weight tensor mean numbers, and how they are repacked for the kernels.

One file per format in this folder; each exports `FORMAT`, and its presence is its registration. A repack is lossless:
`unpack(pack(raw))` equals `dequantize(raw)` bit for bit.

The packed plane of a matrix [rows, cols]: units of `tile.rows` consecutive rows (the last one padded with zero bytes),
each unit cut along the columns into tiles of `tile.cols`. A tile is its sections one after the other, each row-major
[tile.rows][...] and starting at a multiple of 16 bytes; the tile's length is rounded up to a multiple of 16.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imp_runtime.errors import ImpError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SHORTEST_CUT = 1024  # tiles below this length cost more in tile heads than they gain
_LONGEST_CUT = 4  # usual tiles: of such a length a few warps' slots still fit shared memory
PRODUCT_COLS = 16  # of a tensor-core product: rows are whole numbers of it
_MOST_ROWS = 4  # eight rows of a 6-bit tile and their sums do not fit the registers of 12 warps
_WORKING_SET = 1 << 18  # raw bytes repacked at a time: with temporaries and output it stays within a core's L2 cache


class QuantError(ImpError):
    """A format that does not exist, or a shape or buffer that does not fit a format."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A contiguous piece of a plane: `rows` consecutive rows by `cols` weights."""

    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Section:
    """One array of a tile: `nbytes` bytes for every `weights` consecutive weights of a row."""

    nbytes: int
    weights: int

    def row_bytes(self, cols: int) -> int:
        """Bytes of `cols` weights of one row in this section."""
        return cols // self.weights * self.nbytes


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """A storage format: `block` consecutive weights of a row take `block_bytes` bytes in the file.

    `split(raw uint8[n, row_bytes])` gives the sections of n rows, uint8[n, section bytes of a row] each, and
    `decode(*sections)` their weights as float32[n, k]; `dequantize(raw)` gives the same weights from the file's bytes.
    `tile_weights` bounds rows * cols of a tile, so that tiles have 2 to 4 KB. `layout` is the C++
    template's name, and `activation` what the kernels multiply the weights with: int8 codes with a scale per 32, or
    floats. `prefill_planes` is what a step of prefill's product keeps of a weight: scales per 32 (or twice per 16), and
    offsets; of floats, the bfloat16 terms that hold one exactly. `halfs`: a product may round weights to float16, as
    they have not more bits than are then left of them.
    """

    name: str
    ggml_type: int
    block: int
    block_bytes: int
    activation: Literal["q8", "bf16"]
    layout: str
    tile_weights: int
    prefill_planes: int
    halfs: bool
    sections: tuple[Section, ...]
    split: Callable[[Bytes], tuple[Bytes, ...]]
    decode: Callable[..., Floats]
    dequantize: Callable[[Bytes], Floats]

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights in the file."""
        if cols <= 0 or cols % self.block:
            raise QuantError(f"{self.name}: a row of {cols} weights is not a whole number of blocks of {self.block}")
        return cols // self.block * self.block_bytes

    def pack(self, raw: Bytes, tile: Tile) -> Bytes:
        """Repack n rows of the file, uint8[n, row_bytes], into whole units of the plane: uint8[bytes]."""
        rows, row_bytes = raw.shape
        cols = row_bytes // self.block_bytes * self.block
        if row_bytes != self.row_bytes(cols) or cols % tile.cols:
            raise QuantError(f"{self.name}: rows of {row_bytes} bytes cannot be cut into tiles of {tile.cols} weights")
        plane = np.zeros(plane_bytes(self, rows, cols, tile), np.uint8)
        views = _section_views(self, plane, cols, tile)
        whole = rows // tile.rows * tile.rows
        step = max(1, _WORKING_SET // (row_bytes * tile.rows)) * tile.rows
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            _store(views, self.split(np.ascontiguousarray(raw[start:stop])), start // tile.rows, tile)
        if whole < rows:
            last = np.zeros((tile.rows, row_bytes), np.uint8)
            last[: rows - whole] = raw[whole:]
            _store(views, self.split(last), whole // tile.rows, tile)
        return plane

    def unpack(self, packed: Bytes, rows: int, cols: int, tile: Tile) -> Floats:
        """Weights of the first `rows` rows, float32[rows, cols], decoded from the packed plane."""
        expected = plane_bytes(self, rows, cols, tile)
        if packed.size != expected:
            raise QuantError(f"{self.name}: a plane of {rows} x {cols} has {expected} bytes, not {packed.size}")
        views = _section_views(self, packed, cols, tile)
        flat = [view.transpose(0, 2, 1, 3).reshape(len(view) * tile.rows, -1)[:rows] for view in views]
        return self.decode(*flat)


def _section_views(fmt: QuantFormat, plane: Bytes, cols: int, tile: Tile) -> list[Bytes]:
    """Views uint8[units, tiles, tile.rows, section bytes] of the plane, one per section."""
    units = plane.reshape(-1, cols // tile.cols, tile_bytes(fmt, tile))
    views, offset = [], 0
    for section in fmt.sections:
        row = section.row_bytes(tile.cols)
        part = units[:, :, offset : offset + tile.rows * row]
        views.append(part.reshape(*part.shape[:2], tile.rows, row))
        offset = _round16(offset + tile.rows * row)
    return views


def _store(views: list[Bytes], sections: tuple[Bytes, ...], unit: int, tile: Tile) -> None:
    for view, section in zip(views, sections, strict=True):
        units = len(section) // tile.rows
        source = section.reshape(units, tile.rows, view.shape[1], view.shape[3]).transpose(0, 2, 1, 3)
        view[unit : unit + units] = source


def _round16(nbytes: int) -> int:
    return (nbytes + 15) & ~15


def choose_tile(fmt: QuantFormat, cols: int) -> Tile:
    """Tile of a matrix with rows of `cols` weights."""
    fmt.row_bytes(cols)
    length = cols if cols <= fmt.tile_weights else _cut(fmt, cols)
    rows = _MOST_ROWS
    while rows > 1 and rows * length > fmt.tile_weights:
        rows //= 2
    return Tile(rows, length)


def _cut(fmt: QuantFormat, cols: int) -> int:
    """Length of the tiles of a long row, a divisor of it.

    The longest within `tile_weights`, at best a multiple of 256, which leaves few lanes of a warp idle, else of the
    block. Where all of those are too short to be worth it, the shortest above.
    """
    shortest = min(_SHORTEST_CUT, fmt.tile_weights // 2)
    block = max(fmt.block, PRODUCT_COLS)
    divisors = [c for c in range(block, min(cols, _LONGEST_CUT * fmt.tile_weights) + 1, block) if cols % c == 0]
    within = [c for c in divisors if shortest <= c <= fmt.tile_weights]
    above = [c for c in divisors if c > fmt.tile_weights]
    whole_warps = [c for c in within if c % 256 == 0]
    return max(whole_warps or within, default=0) or min(above or divisors[-1:], default=cols)


def tile_bytes(fmt: QuantFormat, tile: Tile) -> int:
    """Length of one tile in bytes, a multiple of 16."""
    return sum(_round16(tile.rows * section.row_bytes(tile.cols)) for section in fmt.sections)


def plane_bytes(fmt: QuantFormat, rows: int, cols: int, tile: Tile | None = None) -> int:
    """Unpadded length in bytes of the plane of a matrix [rows, cols]."""
    tile = tile or choose_tile(fmt, cols)
    return -(-rows // tile.rows) * (cols // tile.cols) * tile_bytes(fmt, tile)


@functools.cache
def formats() -> Mapping[str, QuantFormat]:
    """Every known format by name."""
    modules = (importlib.import_module(f"{__name__}.{entry.name}") for entry in pkgutil.iter_modules(__path__))
    found: list[QuantFormat] = [module.FORMAT for module in modules]
    return {fmt.name: fmt for fmt in sorted(found, key=lambda fmt: fmt.name)}


def format_named(name: str) -> QuantFormat:
    """The format called `name`, such as "Q8_0"."""
    try:
        return formats()[name]
    except KeyError:
        raise QuantError(f"unknown weight format {name!r}; known: {', '.join(formats())}") from None


def format_of_ggml(ggml_type: int) -> QuantFormat:
    """The format that GGUF files number `ggml_type`."""
    for fmt in formats().values():
        if fmt.ggml_type == ggml_type:
            return fmt
    raise QuantError(f"unknown GGML tensor type {ggml_type}; known: {', '.join(formats())}")
