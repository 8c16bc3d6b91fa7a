"""Q4_1: codes of four bits, a float16 scale and a float16 minimum per 32: all codes of a row, then all pairs of those.

The codes lie as in the file. 5 bits and 0.75 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, above_minimum
from imp_codegen.layouts._four_bits import unpack_four

_BLOCK = np.dtype([("dm", "V4"), ("qs", "V16")])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.name == "Q4_1" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    return np.ascontiguousarray(blocks["qs"]).view(np.uint8), np.ascontiguousarray(blocks["dm"]).view(np.uint8)


def _decode(fmt: Format, codes: Bytes, pairs: Bytes) -> Floats:
    return above_minimum(unpack_four(codes).astype(np.float32), pairs)


LAYOUT = Layout(
    name="Q4_1",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(4, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
