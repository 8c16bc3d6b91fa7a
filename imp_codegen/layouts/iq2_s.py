"""IQ2_S: a block's two words are codes and signs, as `_grid.py` has them.

Three codes have ten bits of the first word and the fourth its other two. Two bytes a block have the fourth's other
eight bits, and the scales; then come all d. 2.5625 bits, as in the file, and 1.76 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import IQ2, points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import BY_EIGHT, as_bytes, odd_scale, spread, turned, weigh

_BLOCK = np.dtype([("d", "V2"), ("qs", "u1", (8, 4)), ("signs", "u1", (8, 4)), ("qh", "u1", 8), ("scales", "u1", 8)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ2_S" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    high = blocks["qh"][..., None] >> np.arange(0, 8, 2, dtype=np.uint32) & 3
    code = blocks["qs"] | high << 8
    words = np.empty((*blocks.shape, 8, 2), "<u4")
    words[..., 0] = code[..., 0] | code[..., 1] << 10 | code[..., 2] << 20 | code[..., 3] << 30
    words[..., 1] = spread(blocks["signs"], BY_EIGHT)
    rest = np.stack([(code[..., 3] >> 2).astype(np.uint8), blocks["scales"]], axis=-1)
    return as_bytes(words, rows), as_bytes(rest, rows), as_bytes(blocks["d"], rows)


def _decode(fmt: Format, words: Bytes, rest: Bytes, d: Bytes) -> Floats:
    first, signs = np.moveaxis(np.ascontiguousarray(words).view("<u4").reshape(len(words), -1, 2), -1, 0)
    last, scales = np.moveaxis(rest.reshape(len(rest), -1, 2).astype(np.uint32), -1, 0)
    codes = np.stack([first & 1023, first >> 10 & 1023, first >> 20 & 1023, first >> 30 | last << 2], axis=-1)
    numbers = points("iq2_s", IQ2)[codes] * turned(signs, BY_EIGHT, even=False)
    return weigh(d, odd_scale(np.stack([scales & 15, scales >> 4], axis=-1), 0.125), numbers)


LAYOUT = Layout(
    name="IQ2_S",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(2, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
