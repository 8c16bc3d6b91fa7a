"""Q8_0: int8 values in blocks of 32 with a float16 scale: all values of a row, then all scales.

Takes every format of whole numbers times a scale per 32 or a multiple; what its codes stand for is looked up while
packing. So a format of fewer bits runs before it has a layout of its own, at 8.5 bits and 0.60 instructions a
weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled, whole_values

_BLOCK = 32


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return () if fmt.codes is not None and fmt.codes.per % _BLOCK == 0 else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    assert fmt.codes is not None
    codes, scales = fmt.codes.split(raw)
    if (count := fmt.codes.per // _BLOCK) > 1:
        scales = np.repeat(scales.view("<u2"), count, axis=1).view(np.uint8)
    return whole_values(fmt, codes), scales


def _decode(fmt: Format, codes: Bytes, scales: Bytes) -> Floats:
    return scaled(np.ascontiguousarray(codes).view(np.int8).astype(np.float32), scales)


LAYOUT = Layout(
    name="Q8_0",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(32, 32), Part(2, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
