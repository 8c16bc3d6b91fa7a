"""IQ1_M: a block has a word with two codes of eleven bits and ten bits of the third.

Then two bytes a block: the fourth code, the third one's last bit, and of each eight whether the eighth is less. A byte
with the two scales, and all d, which the file has scattered. 1.8125 bits, where the file has 1.75, and 1.87
instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.grids import IQ1, points
from imp_codegen.layouts import Layout
from imp_codegen.layouts._grid import as_bytes, iq1_codes, iq1_words, odd_scale, weigh

_BLOCK = np.dtype([("qs", "u1", (8, 4)), ("qh", "u1", (8, 2)), ("scales", "<u2", 4)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "IQ1_M" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, ...]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    high = np.stack([blocks["qh"], blocks["qh"] >> 4], axis=-1).reshape(*blocks.shape, 8, 4).astype(np.uint32)
    first, rest = iq1_words(blocks["qs"] | (high & 7) << 8)
    for group in range(4):
        rest |= ((high[..., group] >> 3 & 1) << 12 + group).astype(np.uint16)
    six = np.stack([blocks["scales"], blocks["scales"] >> 6], axis=-1)
    scales = (six & 7 | (six >> 3 & 7) << 4).astype(np.uint8)
    top = blocks["scales"] >> 12
    d = top[..., 0] | top[..., 1] << 4 | top[..., 2] << 8 | top[..., 3] << 12
    return tuple(as_bytes(part, rows) for part in (first, rest, scales, d))


def _decode(fmt: Format, first: Bytes, rest: Bytes, scales: Bytes, d: Bytes) -> Floats:
    halves = np.ascontiguousarray(rest).view("<u2")
    less = (halves[..., None] >> np.arange(12, 16, dtype=np.uint16) & 1).astype(np.float32)
    numbers = 8 * points("iq1", IQ1)[iq1_codes(first, halves)] + (1 - 2 * less)[..., None]
    return weigh(d, odd_scale(np.stack([scales & 7, scales >> 4], axis=-1), 0.125), numbers)


LAYOUT = Layout(
    name="IQ1_M",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(4, 32), Part(2, 32), Part(1, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
