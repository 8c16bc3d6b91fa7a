"""F16: IEEE binary16, little-endian."""

from __future__ import annotations

import numpy as np

from imp_codegen.quant import Bytes, Floats, QuantFormat, Section


def _split(raw: Bytes) -> tuple[Bytes]:
    return (raw,)


def _dequantize(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


FORMAT = QuantFormat(
    name="F16",
    ggml_type=1,
    block=1,
    block_bytes=2,
    activation="bf16",
    layout="F16",
    tile_weights=2048,
    prefill_planes=2,
    halfs=True,
    sections=(Section(2, 1),),
    split=_split,
    decode=_dequantize,
    dequantize=_dequantize,
)
