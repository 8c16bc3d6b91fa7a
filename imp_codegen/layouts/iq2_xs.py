"""IQ2_XS: a block's two words are codes and signs, as `_grid.py` has them.

Three codes have nine bits of the first word and the fourth its other five and, above them, those above the signs. Then
a byte a block with its two scales, then all d. 2.3125 bits, as in the file, and 2.11 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import IQ2, points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import BY_EIGHT, as_bytes, odd_scale, spread, turned, weigh

_BLOCK = np.dtype([("d", "V2"), ("qs", "<u2", (8, 4)), ("scales", "u1", 8)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ2_XS" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    code = (blocks["qs"] & 511).astype(np.uint32)
    words = np.empty((*blocks.shape, 8, 2), "<u4")
    words[..., 0] = code[..., 0] | code[..., 1] << 9 | code[..., 2] << 18 | code[..., 3] << 27
    words[..., 1] = spread(blocks["qs"] >> 9, BY_EIGHT) | code[..., 3] >> 5 << 28
    return as_bytes(words, rows), as_bytes(blocks["scales"], rows), as_bytes(blocks["d"], rows)


def _decode(fmt: Format, words: Bytes, scales: Bytes, d: Bytes) -> Floats:
    first, second = np.moveaxis(np.ascontiguousarray(words).view("<u4").reshape(len(words), -1, 2), -1, 0)
    codes = np.stack([first & 511, first >> 9 & 511, first >> 18 & 511, first >> 27 | second >> 28 << 5], axis=-1)
    numbers = points("iq2_xs", IQ2)[codes] * turned(second, BY_EIGHT, even=True)
    return weigh(d, odd_scale(np.stack([scales & 15, scales >> 4], axis=-1), 0.125), numbers)


LAYOUT = Layout(
    name="IQ2_XS",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(1, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
