"""Q4_0: codes of four bits for whole numbers in a row, and a float16 scale per 32: all codes of a row, then all scales.

The first number is an argument. 4.5 bits and 0.68 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled, sequence
from imp_codegen.layouts._four_bits import pack_four, unpack_four


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    first = sequence(fmt, 16)
    return None if first is None else (first,)


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    assert fmt.codes is not None
    codes, scales = fmt.codes.split(raw)
    return pack_four(codes), scales


def _decode(fmt: Format, codes: Bytes, scales: Bytes) -> Floats:
    first = sequence(fmt, 16)
    assert first is not None
    return scaled(unpack_four(codes).astype(np.float32) + np.float32(first), scales)


LAYOUT = Layout(
    name="Q4_0",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(2, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
