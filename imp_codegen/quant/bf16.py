"""BF16: the upper half of an IEEE binary32, little-endian."""

from __future__ import annotations

import numpy as np

from imp_codegen.quant import Bytes, Floats, QuantFormat, Section


def _split(raw: Bytes) -> tuple[Bytes]:
    return (raw,)


def _dequantize(raw: Bytes) -> Floats:
    return (np.ascontiguousarray(raw).view("<u2").astype(np.uint32) << 16).view(np.float32)


FORMAT = QuantFormat(
    name="BF16",
    ggml_type=30,
    block=1,
    block_bytes=2,
    activation="bf16",
    layout="BF16",
    tile_weights=2048,
    prefill_planes=1,
    halfs=True,
    sections=(Section(2, 1),),
    split=_split,
    decode=_dequantize,
    dequantize=_dequantize,
)
