"""BF16: the upper half of an IEEE binary32, little-endian."""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part


def _dequantize(raw: Bytes) -> Floats:
    return (np.ascontiguousarray(raw).view("<u2").astype(np.uint32) << 16).view(np.float32)


FORMAT = Format("BF16", 1, (Part(2, 1),), _dequantize, ggml_type=30)
