"""IQ4_XS: codes as `_table.py` has them, then a signed byte a block of 32 for its scale, then all d.

4.3125 bits, where the file has 4.25, and 1.59 instructions a weight: scales of six bits would cost more of those.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import IQ4, Bytes, Floats, Format, Part, nibbles
from imp_codegen.layouts import Layout
from imp_codegen.layouts._table import pack_pairs, unpack_pairs

_BLOCK = np.dtype([("d", "V2"), ("high", "<u2"), ("low", "<u4"), ("qs", "u1", (8, 16))])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return IQ4 if fmt.name == "IQ4_XS" else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, blocks = len(raw), raw.view(_BLOCK)
    number = np.arange(8, dtype=np.uint32)
    scales = blocks["low"][..., None] >> 4 * number & 15 | (blocks["high"][..., None] >> 2 * number & 3) << 4
    codes = nibbles(blocks["qs"]).reshape(rows, -1)
    signed = (scales.astype(np.int8) - np.int8(32)).view(np.uint8)
    return pack_pairs(codes), signed.reshape(rows, -1), np.ascontiguousarray(blocks["d"]).view(np.uint8)


def _decode(fmt: Format, codes: Bytes, scales: Bytes, d: Bytes) -> Floats:
    rows = len(codes)
    signed = np.ascontiguousarray(scales).view(np.int8).reshape(rows, -1, 8).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        steps = np.ascontiguousarray(d).view("<f2").astype(np.float32)[..., None] * signed
        weights = steps.reshape(rows, -1, 1) * np.array(IQ4, np.float32)[unpack_pairs(codes)].reshape(rows, -1, 32)
    return weights.reshape(rows, -1)


LAYOUT = Layout(
    name="IQ4_XS",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(1, 32), Part(2, 256)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
