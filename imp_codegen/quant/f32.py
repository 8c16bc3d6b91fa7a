"""F32: IEEE binary32, little-endian, as it is."""

from __future__ import annotations

import numpy as np

from imp_codegen.quant import Bytes, Floats, QuantFormat, Section


def _split(raw: Bytes) -> tuple[Bytes]:
    return (raw,)


def _dequantize(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view("<f4").astype(np.float32)


FORMAT = QuantFormat(
    name="F32",
    ggml_type=0,
    block=1,
    block_bytes=4,
    activation="bf16",
    layout="F32",
    tile_weights=1024,
    prefill_planes=3,
    halfs=False,
    sections=(Section(4, 1),),
    split=_split,
    decode=_dequantize,
    dequantize=_dequantize,
)
