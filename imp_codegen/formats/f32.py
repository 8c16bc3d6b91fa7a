"""F32: IEEE binary32, little-endian, as it is."""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part


def _dequantize(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view("<f4").astype(np.float32)


FORMAT = Format("F32", 1, (Part(4, 1),), _dequantize, ggml_type=0)
