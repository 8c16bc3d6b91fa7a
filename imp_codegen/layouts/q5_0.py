"""Q5_0: codes of five bits for whole numbers in a row, and a float16 scale per 32.

Codes lie as `_five_bits.py` has them, then all scales. The first number is an argument. 5.5 bits and
1.00 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled, sequence
from imp_codegen.layouts._five_bits import pack_five, unpack_five


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    first = sequence(fmt, 32)
    return None if first is None else (first,)


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    assert fmt.codes is not None
    codes, scales = fmt.codes.split(raw)
    return *pack_five(codes), scales


def _decode(fmt: Format, codes: Bytes, rest: Bytes, scales: Bytes) -> Floats:
    first = sequence(fmt, 32)
    assert first is not None
    return scaled(unpack_five(codes, rest).astype(np.float32) + np.float32(first), scales)


LAYOUT = Layout(
    name="Q5_0",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(4, 32), Part(2, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
