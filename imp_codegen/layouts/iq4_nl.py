"""IQ4_NL: codes of four bits for numbers of a table, and a float16 scale per 32.

Codes lie as `_table.py` has them, then all scales. The table is the argument. 4.5 bits and 1.52 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part
from imp_codegen.layouts import Layout, scaled, sequence
from imp_codegen.layouts._table import pack_pairs, unpack_pairs


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    if fmt.codes is None or fmt.codes.per != 32 or not 0 < len(fmt.codes.values) <= 16 or sequence(fmt, 16) is not None:
        return None
    values = (*fmt.codes.values, *(0 for _ in range(16 - len(fmt.codes.values))))
    return values if max(values) < 127 else None  # the kernels' tables need one more


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    assert fmt.codes is not None
    codes, scales = fmt.codes.split(raw)
    return pack_pairs(codes), scales


def _decode(fmt: Format, codes: Bytes, scales: Bytes) -> Floats:
    return scaled(np.array(_arguments(fmt), np.float32)[unpack_pairs(codes)], scales)


LAYOUT = Layout(
    name="IQ4_NL",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(2, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
