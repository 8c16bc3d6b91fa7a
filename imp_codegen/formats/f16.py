"""F16: IEEE binary16, little-endian."""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part


def _dequantize(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


FORMAT = Format("F16", 1, (Part(2, 1),), _dequantize, ggml_type=1)
