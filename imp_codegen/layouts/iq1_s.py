"""IQ1_S: a block has a word with two codes of eleven bits and ten bits of the third.

Then two bytes a block: the fourth code, the third one's last bit, whether the eighth is less, and the scale; then all
d. 1.5625 bits, as in the file, and 1.61 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import IQ1, points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import as_bytes, iq1_codes, iq1_words, odd_scale, weigh

_BLOCK = np.dtype([("d", "V2"), ("qs", "u1", (8, 4)), ("qh", "<u2", 8)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ1_S" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    qh = blocks["qh"]
    first, rest = iq1_words(blocks["qs"] | (qh[..., None] >> np.arange(0, 12, 3, dtype=np.uint32) & 7) << 8)
    rest |= qh >> 15 << 12 | (qh >> 12 & 7) << 13
    return as_bytes(first, rows), as_bytes(rest, rows), as_bytes(blocks["d"], rows)


def _decode(fmt: Format, first: Bytes, rest: Bytes, d: Bytes) -> Floats:
    halves = np.ascontiguousarray(rest).view("<u2")
    less = (halves >> 12 & 1).astype(np.float32)
    numbers = 8 * points("iq1", IQ1)[iq1_codes(first, halves)] + (1 - 2 * less)[..., None, None]
    return weigh(d, odd_scale(halves[..., None] >> 13, 0.125), numbers)


LAYOUT = Layout(
    name="IQ1_S",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(4, 32), Part(2, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
