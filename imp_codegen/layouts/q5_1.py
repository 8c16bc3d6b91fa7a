"""Q5_1: codes of five bits as `_five_bits.py` has them, a float16 scale and a float16 minimum per 32.

6 bits and 1.05 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, bits, nibbles
from imp_codegen.layouts import Layout, above_minimum
from imp_codegen.layouts._five_bits import pack_five, unpack_five

_BLOCK = np.dtype([("dm", "V4"), ("qh", "u1", 4), ("qs", "u1", 16)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q5_1" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    codes = nibbles(blocks["qs"]) | bits(blocks["qh"]) * np.uint8(16)
    return *pack_five(codes.reshape(len(raw), -1)), np.ascontiguousarray(blocks["dm"]).view(np.uint8)


def _decode(fmt: Format, codes: Bytes, rest: Bytes, pairs: Bytes) -> Floats:
    return above_minimum(unpack_five(codes, rest).astype(np.float32), pairs)


LAYOUT = Layout(
    name="Q5_1",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(4, 32), Part(4, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
