"""TQ2_0: codes as Q2_K's layout has them, two words a block of 32, then all d: 2.0625 bits, as in the file.

Bits 2k, 2k + 1 of the words' bytes are the codes 8k to 8k + 7. 0.75 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "TQ2_0" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    assert fmt.codes is not None
    codes, d = fmt.codes.split(raw)
    quarters = codes.reshape(len(raw), -1, 4, 8) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    words: Bytes = np.bitwise_or.reduce(quarters, axis=2)
    return words.reshape(len(raw), -1), d


def _decode(fmt: Format, words: Bytes, d: Bytes) -> Floats:
    codes = words.reshape(len(words), -1, 1, 8) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    return scaled(codes.reshape(len(words), -1).astype(np.float32) - 1, d)


LAYOUT = Layout(
    name="TQ2_0",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(8, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
