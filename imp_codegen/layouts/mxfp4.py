"""MXFP4: codes as `_table.py` has them, then a byte a block of 32, the exponent of its scale.

4.25 bits and 1.62 instructions a weight.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, Bytes, Floats, Format, Part, nibbles
from imp_codegen.layouts import Layout
from imp_codegen.layouts._table import pack_pairs, unpack_pairs

_BLOCK = np.dtype([("e", "u1"), ("qs", "u1", 16)])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return E2M1 if fmt.name in ("MXFP4", "MXFP4_TENSORS") else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes]:
    if fmt.of:
        cols = fmt.cols(raw.shape[1])
        return raw[:, : cols // 2], raw[:, cols // 2 :]
    blocks = raw.view(_BLOCK)
    return pack_pairs(nibbles(blocks["qs"]).reshape(len(raw), -1)), np.ascontiguousarray(blocks["e"])


def _decode(fmt: Format, codes: Bytes, exponents: Bytes) -> Floats:
    # The bits of 2^(e - 128), of which two have no leading one.
    wide = exponents.astype(np.uint32)
    bits = np.where(wide < 2, np.uint32(0x00200000) << wide, (wide - 1) << 23).astype(np.uint32)
    values = np.array(E2M1, np.float32)[unpack_pairs(codes)].reshape(*exponents.shape, 32)
    with np.errstate(over="ignore"):  # a file may hold the largest power; its weights are the file's values
        weights: Floats = bits.view(np.float32)[..., None] * values
    return weights.reshape(len(codes), -1)


LAYOUT = Layout(
    name="MXFP4",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    sections=(Part(16, 32), Part(1, 32)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
