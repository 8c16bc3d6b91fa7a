"""IQ3_S: a block's two words are six of its codes, nine bits each, and five bits each of the other two.

Then a word a block with its signs as `_grid.py` has them, a byte with the four bits above those five, a nibble for each
scale, and all d. 3.4375 bits, as in the file, and 2.46 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import BY_FOUR, as_bytes, odd_scale, spread, turned, weigh

_BLOCK = np.dtype([("d", "V2"), ("qs", "u1", (8, 8)), ("qh", "u1", 8), ("signs", "u1", (8, 4)), ("scales", "u1", 4)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ3_S" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, ...]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    ninth = blocks["qh"][..., None] >> np.arange(8, dtype=np.uint32) & 1
    code = np.moveaxis(blocks["qs"] | ninth << 8, -1, 0)
    words = np.empty((*blocks.shape, 8, 2), "<u4")
    words[..., 0] = code[0] | code[1] << 9 | code[2] << 18 | code[6] << 27
    words[..., 1] = code[3] | code[4] << 9 | code[5] << 18 | code[7] << 27
    rest = (code[6] >> 5 | code[7] >> 5 << 4).astype(np.uint8)
    signs = spread(blocks["signs"], BY_FOUR)
    return tuple(as_bytes(part, rows) for part in (words, signs, rest, blocks["scales"], blocks["d"]))


def _decode(fmt: Format, words: Bytes, signs: Bytes, rest: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(words)
    a, b = np.moveaxis(np.ascontiguousarray(words).view("<u4").reshape(rows, -1, 2), -1, 0)
    six = [word >> shift & 511 for word in (a, b) for shift in (0, 9, 18)]
    wide = rest.astype(np.uint32)
    codes = np.stack([*six, a >> 27 | (wide & 15) << 5, b >> 27 | wide >> 4 << 5], axis=-1)
    turns = turned(np.ascontiguousarray(signs).view("<u4"), BY_FOUR, even=False)
    numbers = points("iq3_s")[codes].reshape(turns.shape) * turns
    return weigh(d, odd_scale(np.stack([scales & 15, scales >> 4], axis=-1).reshape(rows, -1, 1), 1.0), numbers)


LAYOUT = Layout(
    name="IQ3_S",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(4, 32), Part(1, 32), Part(1, 64), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
