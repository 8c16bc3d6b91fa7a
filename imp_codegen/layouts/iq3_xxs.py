"""IQ3_XXS: a block has the file's eight codes; then comes a word a block with its signs and its scale above.

Signs are as `_grid.py` has them; all d are behind that. 3.0625 bits, as in the file, and 2.79 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import BY_FOUR, as_bytes, odd_scale, spread, turned, weigh

_BLOCK = np.dtype([("d", "V2"), ("qs", "V8", 8), ("rest", "<u4", 8)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ3_XXS" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    rest = blocks["rest"]
    signs = spread(rest[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127, BY_FOUR) | rest >> 28 << 28
    return as_bytes(blocks["qs"], rows), as_bytes(signs, rows), as_bytes(blocks["d"], rows)


def _decode(fmt: Format, codes: Bytes, rest: Bytes, d: Bytes) -> Floats:
    words = np.ascontiguousarray(rest).view("<u4")
    numbers = points("iq3_xxs")[codes].reshape(*words.shape, 4, 8) * turned(words, BY_FOUR, even=True)
    return weigh(d, odd_scale(words[..., None] >> 28, 0.25), numbers)


LAYOUT = Layout(
    name="IQ3_XXS",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(4, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
