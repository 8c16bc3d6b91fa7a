"""Device layouts: how the kernels want a weight. What its bytes mean in a file is another matter (`formats/`).

One file per layout in this folder; each exports `LAYOUT`, and its presence is its registration (what several share is
in files with names like `_this`). A layout says which formats it takes, by the kind of their codes or by name, and with
which C++ arguments (an offset, a table). It loses nothing: `unpack(pack(raw))` equals the format's `dequantize(raw)`
bit for bit.

What a layout says of instructions is what ptxas makes of `dot` for sm_120a (sm_90a is much like it), loads from shared
memory included, the vector in registers (tests/nvcc/test_instructions.py).

The packed plane of a matrix [rows, cols]: units of `tile.rows` consecutive rows (the last one padded with zero bytes),
each unit cut along the columns into tiles of `tile.cols`. A tile is its sections one after the other (what a row has
once, in each tile), each row-major [tile.rows][...] and starting at a multiple of 16 bytes; the tile's length is
rounded up to a multiple of 16.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, FormatError, Part
from imp_runtime.plan import Plane

_SHORTEST_CUT = 1024  # tiles below this length cost more in tile heads than they gain
_LONGEST_CUT = 4  # usual tiles: of such a length a few warps' slots still fit shared memory
PRODUCT_COLS = 16  # of a tensor-core product: rows are whole numbers of it
_MOST_ROWS = 4  # eight rows of a 6-bit tile and their sums do not fit the registers of 12 warps
_TILE_BYTES = 4800  # two rows of at most so many are one tile: a copy costs an SM the same whatever it brings
_WORKING_SET = 1 << 18  # raw bytes repacked at a time: with temporaries and output it stays within a core's L2 cache


Activation = Literal["q8", "f16", "bf16"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A contiguous piece of a plane: `rows` consecutive rows by `cols` weights."""

    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A device layout, called as its C++ template is, whose header has that name in small letters.

    `arguments(format)`: the template's arguments behind the tile where the layout takes the format, else None.
    `split(format, raw uint8[n, row bytes])` gives the sections of n rows, uint8[n, section bytes of a row] each, and
    `decode(format, *sections)` their weights as float32[n, k].
    `tile_weights` bounds rows * cols of a tile, but for a second row of few bytes: a lane's share of them fits
    registers. `activation` is what the kernels multiply the weights with: int8 codes with a scale per 32, halfs
    with a scale per 128, or floats.
    `halfs`: a prompt's products may round weights to float16, as they have not more bits than are then left of them;
    those of codes always do. `planes`: the bfloat16 terms that hold a float exactly, for products that may not. `fp4`:
    its codes and scales are what FP4 tensor cores take (the header's `four_scales` and `factor`). `ragged`: rows may be
    multiples of this, too; one that is no whole number of blocks is one tile. `targets`: those that have its
    instructions; empty for all.
    """

    name: str
    activation: Activation
    tile_weights: int
    halfs: bool
    sections: tuple[Part, ...]
    arguments: Callable[[Format], tuple[int, ...] | None]
    split: Callable[[Format, Bytes], tuple[Bytes, ...]]
    decode: Callable[..., Floats]
    planes: int = 0
    fp4: bool = False
    ragged: int = 0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.halfs or self.planes, f"{self.name}: a prompt's products want halfs, or bfloat16 terms"

    @property
    def block(self) -> int:
        """Weights that a tile cannot cut through."""
        return max(section.weights for section in self.sections)

    def fits(self, cols: int) -> bool:
        """Whether rows of `cols` weights can be cut into tiles."""
        if cols % self.block == 0:
            return True
        return self.ragged > 0 and cols % self.ragged == 0 and cols <= _LONGEST_CUT * self.tile_weights

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights, without padding."""
        return sum(section.row_bytes(cols) for section in self.sections)

    def runs_on(self, target: str) -> bool:
        """Whether a target has its instructions."""
        return not self.targets or target in self.targets

    def pack(self, fmt: Format, raw: Bytes, tile: Tile) -> Bytes:
        """Repack n rows of the file, uint8[n, row_bytes], into whole units of the plane: uint8[bytes]."""
        rows, row_bytes = raw.shape
        cols = fmt.cols(row_bytes)
        if cols % tile.cols:
            raise FormatError(f"{fmt.name}: rows of {row_bytes} bytes cannot be cut into tiles of {tile.cols} weights")
        plane = np.zeros(plane_bytes(self, rows, cols, tile), np.uint8)
        views = _section_views(self, plane, cols, tile)
        whole = rows // tile.rows * tile.rows
        step = max(1, _WORKING_SET // (row_bytes * tile.rows)) * tile.rows
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            _store(views, self._cut(fmt, np.ascontiguousarray(raw[start:stop]), tile), start // tile.rows, tile)
        if whole < rows:
            last = np.zeros((tile.rows, row_bytes), np.uint8)
            last[: rows - whole] = raw[whole:]
            _store(views, self._cut(fmt, last, tile), whole // tile.rows, tile)
        return plane

    def unpack(self, fmt: Format, packed: Bytes, rows: int, cols: int, tile: Tile) -> Floats:
        """Weights of the first `rows` rows, float32[rows, cols], decoded from the packed plane."""
        expected = plane_bytes(self, rows, cols, tile)
        if packed.size != expected:
            raise FormatError(f"{self.name}: a plane of {rows} x {cols} has {expected} bytes, not {packed.size}")
        views = _section_views(self, packed, cols, tile)
        flat = [view.transpose(0, 2, 1, 3).reshape(len(view) * tile.rows, -1)[:rows] for view in views]
        return self.decode(
            fmt, *(part[:, : section.row_bytes(cols)] for part, section in zip(flat, self.sections, strict=True))
        )

    def _cut(self, fmt: Format, raw: Bytes, tile: Tile) -> tuple[Bytes, ...]:
        """The sections of rows; what a row has once, each of its tiles has."""
        sections = self.split(fmt, raw)
        tiles = fmt.cols(raw.shape[1]) // tile.cols
        return tuple(
            each if section.weights else np.tile(each, (1, tiles))
            for each, section in zip(sections, self.sections, strict=True)
        )


def whole_values(fmt: Format, codes: Bytes) -> Bytes:
    """What the codes of a format of that kind stand for, int8 as bytes."""
    assert fmt.codes is not None
    if not fmt.codes.values:
        return codes
    table = np.zeros(256, np.int8)
    table[: len(fmt.codes.values)] = fmt.codes.values
    return table.view(np.uint8)[codes]


def sequence(fmt: Format, count: int) -> int | None:
    """What the code 0 stands for, if codes are numbers in a row, at most `count`, with a scale per 32."""
    if fmt.codes is None or fmt.codes.per != 32 or not 0 < len(fmt.codes.values) <= count:
        return None
    first = fmt.codes.values[0]
    return first if fmt.codes.values == tuple(range(first, first + len(fmt.codes.values))) else None


def scaled(values: Floats, scales: Bytes) -> Floats:
    """Numbers float32[n, k] times float16 scales, uint8[n, 2 * scales of a row]."""
    factors = np.ascontiguousarray(scales).view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = values.reshape(*factors.shape, -1) * factors[..., None]
    return weights.reshape(len(values), -1)


def above_minimum(values: Floats, pairs: Bytes) -> Floats:
    """Numbers float32[n, k] times a float16 scale plus a float16 minimum, uint8[n, 4 * pairs of a row]."""
    halfs = np.ascontiguousarray(pairs).view("<f2").astype(np.float32).reshape(len(values), -1, 2)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        weights: Floats = values.reshape(*halfs.shape[:2], -1) * halfs[..., :1] + halfs[..., 1:]
    return weights.reshape(len(values), -1)


def _section_views(layout: Layout, plane: Bytes, cols: int, tile: Tile) -> list[Bytes]:
    """Views uint8[units, tiles, tile.rows, section bytes] of the plane, one per section."""
    units = plane.reshape(-1, cols // tile.cols, tile_bytes(layout, tile))
    views, offset = [], 0
    for section in layout.sections:
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


def choose_tile(layout: Layout, cols: int, each: int = 0) -> Tile:
    """Tile of a matrix with rows of `cols` weights; of a stack of such, no tile has rows of two: `each` has so many."""
    length = cols if cols <= layout.tile_weights or cols % layout.block else _cut(layout, cols)
    rows = _MOST_ROWS
    while rows > 1 and (rows * length > layout.tile_weights or each % rows):
        rows //= 2
    if rows == 1 and 2 * layout.row_bytes(length) <= _TILE_BYTES and each % 2 == 0:
        rows = 2
    return Tile(rows, length)


def _cut(layout: Layout, cols: int) -> int:
    """Length of the tiles of a long row, a divisor of it.

    The longest within `tile_weights`, at best a multiple of 256, which leaves few lanes of a warp idle, else of the
    block. Where all of those are too short to be worth it, the shortest above.
    """
    shortest = min(_SHORTEST_CUT, layout.tile_weights // 2)
    block = max(layout.block, PRODUCT_COLS)
    divisors = [c for c in range(block, min(cols, _LONGEST_CUT * layout.tile_weights) + 1, block) if cols % c == 0]
    within = [c for c in divisors if shortest <= c <= layout.tile_weights]
    above = [c for c in divisors if c > layout.tile_weights]
    whole_warps = [c for c in within if c % 256 == 0]
    return max(whole_warps or within, default=0) or min(above or divisors[-1:], default=cols)


def tile_bytes(layout: Layout, tile: Tile) -> int:
    """Length of one tile in bytes, a multiple of 16."""
    return sum(_round16(tile.rows * section.row_bytes(tile.cols)) for section in layout.sections)


def plane_bytes(layout: Layout, rows: int, cols: int, tile: Tile | None = None) -> int:
    """Unpadded length in bytes of the plane of a matrix [rows, cols]."""
    tile = tile or choose_tile(layout, cols)
    return -(-rows // tile.rows) * (cols // tile.cols) * tile_bytes(layout, tile)


@functools.cache
def layouts() -> Mapping[str, Layout]:
    """Every known layout by name."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    found: list[Layout] = [importlib.import_module(f"{__name__}.{name}").LAYOUT for name in names]
    return {layout.name: layout for layout in sorted(found, key=lambda layout: layout.name)}


def placement(plane: Plane) -> tuple[Layout, Tile]:
    """Layout and tile of a matrix's plane, as `place_weights` wrote them."""
    name, _, shape = plane.layout.partition(":")
    rows, cols = map(int, shape.split("x"))
    return layouts()[name], Tile(rows, cols)


def layout_for(fmt: Format, rows: int, cols: int, targets: Collection[str]) -> Layout:
    """The layout in which a matrix of a format is smallest, of those that every target has."""
    taking = [layout for layout in layouts().values() if layout.arguments(fmt) is not None]
    if not taking:
        raise FormatError(f"no layout takes {fmt.name}; there are {', '.join(layouts())}")
    common = [layout for layout in taking if all(map(layout.runs_on, targets))]
    if not common:
        where = "; ".join(f"{layout.name} is for {', '.join(layout.targets) or 'every target'}" for layout in taking)
        raise FormatError(f"no layout that takes {fmt.name} is for all of {', '.join(targets)}: {where}")
    if not any(layout.fits(cols) for layout in common):
        blocks = " or ".join(f"{layout.ragged or layout.block} ({layout.name})" for layout in common)
        raise FormatError(f"a row of {cols} weights is not a whole number of blocks of {blocks}")
    return min((layout for layout in common if layout.fits(cols)), key=lambda layout: plane_bytes(layout, rows, cols))
