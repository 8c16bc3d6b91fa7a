"""Q8_0: blocks of 32 weights, w = d * q.

In the file (ggml-common.h, block_q8_0): d f16, q int8[32]. Packed: all q of a row, then all d.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.quant import Bytes, Floats, QuantFormat, Section

_BLOCK = np.dtype([("d", "V2"), ("q", "V32")])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    return np.ascontiguousarray(blocks["q"]).view(np.uint8), np.ascontiguousarray(blocks["d"]).view(np.uint8)


def _decode(codes: Bytes, d: Bytes) -> Floats:
    rows = len(codes)
    scales = np.ascontiguousarray(d).view("<f2").astype(np.float32)
    q = np.ascontiguousarray(codes).view(np.int8).reshape(rows, -1, 32).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
        return (q * scales[:, :, None]).reshape(rows, -1)


def _dequantize(raw: Bytes) -> Floats:
    return _decode(*_split(np.ascontiguousarray(raw)))


FORMAT = QuantFormat(
    name="Q8_0",
    ggml_type=8,
    block=32,
    block_bytes=34,
    activation="q8",
    layout="Q8_0",
    tile_weights=4096,
    prefill_planes=1,
    halfs=True,
    sections=(Section(32, 32), Section(2, 32)),
    split=_split,
    decode=_decode,
    dequantize=_dequantize,
)
