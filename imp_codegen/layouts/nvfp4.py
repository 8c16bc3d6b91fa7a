"""NVFP4: codes as `_table.py` has them, then a byte for each 16 weights, its scale in e4m3, then a factor for the row.

The factor is a float32, once in each tile. 4.5 bits and 1.75 instructions a weight. A scale that reads as zero is
stored as zero, and bit 7 is off, so that the kernels need not look.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E2M1, Bytes, Floats, Format, Part, nibbles
from imp_codegen.layouts import Layout
from imp_codegen.layouts._table import pack_pairs, unpack_pairs

_BLOCK = np.dtype([("s", "u1", 4), ("qs", "u1", (4, 8))])


def _arguments(fmt: Format) -> tuple[int, ...] | None:
    return E2M1 if fmt.name in ("NVFP4", "NVFP4_SCALED", "NVFP4_TENSORS") else None


def _split(fmt: Format, raw: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows = len(raw)
    if fmt.name == "NVFP4_TENSORS":
        cols = fmt.cols(raw.shape[1])
        return raw[:, : cols // 2], raw[:, cols // 2 : -4], raw[:, -4:]
    factors = raw[:, -4:] if fmt.of else np.ones((rows, 1), "<f4").view(np.uint8)
    blocks = np.ascontiguousarray(raw[:, :-4] if fmt.of else raw).view(_BLOCK)
    scales = np.where(blocks["s"] == 0x7F, np.uint8(0), blocks["s"] & 0x7F)
    return pack_pairs(nibbles(blocks["qs"]).reshape(rows, -1)), scales.reshape(rows, -1), factors


def _decode(fmt: Format, codes: Bytes, scales: Bytes, factors: Bytes) -> Floats:
    # As a float16 these bits are 2^-8 of an e4m3.
    steps = (scales.astype(np.uint16) << 7).view(np.float16).astype(np.float32) * np.float32(128)
    values = np.array(E2M1, np.float32)[unpack_pairs(codes)].reshape(*scales.shape, 16)
    weights: Floats = (steps[..., None] * values).reshape(len(codes), -1)
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any factor; its weights are the file's values
        weights *= np.ascontiguousarray(factors).view("<f4")
    return weights


LAYOUT = Layout(
    name="NVFP4",
    activation="q8",
    tile_weights=4096,
    halfs=True,
    fp4=True,
    sections=(Part(16, 32), Part(1, 16), Part(4, 0)),
    arguments=_arguments,
    split=_split,
    decode=_decode,
)
