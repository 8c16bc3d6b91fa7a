"""IQ2_XXS: a block's two words are the file's four codes, and its signs as `_grid.py` has them with the scale above.

All d behind them. 2.0625 bits, as in the file, and 1.72 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import IQ2, points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import BY_EIGHT, as_bytes, odd_scale, spread, turned, weigh

_BLOCK = np.dtype([("d", "V2"), ("words", "<u4", (8, 2))])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ2_XXS" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    words = blocks["words"].copy()
    rest = words[..., 1]
    words[..., 1] = spread(rest[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127, BY_EIGHT) | rest >> 28 << 28
    return as_bytes(words, rows), as_bytes(blocks["d"], rows)


def _decode(fmt: Format, words: Bytes, d: Bytes) -> Floats:
    codes = words.reshape(len(words), -1, 8)[..., :4]
    rest = np.ascontiguousarray(words).view("<u4").reshape(len(words), -1, 2)[..., 1]
    numbers = points("iq2_xxs", IQ2)[codes] * turned(rest, BY_EIGHT, even=True)
    return weigh(d, odd_scale(rest[..., None] >> 28, 0.125), numbers)


LAYOUT = Layout(
    name="IQ2_XXS",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
