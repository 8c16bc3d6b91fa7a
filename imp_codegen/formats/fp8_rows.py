"""FP8_ROWS: F8_E4M3 codes in one tensor, a float32 scale of each row, or one for all of them, in another.

`weight_scale` of compressed-tensors (strategies "channel" and "tensor") and of ModelOpt (FP8).
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E4M3, Bytes, Floats, Format, Part


def _dequantize(raw: Bytes) -> Floats:
    cols = FORMAT.cols(raw.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any scales; they are its values
        weights: Floats = E4M3[raw[:, :cols]] * np.ascontiguousarray(raw[:, cols:]).view("<f4")
    return weights


FORMAT = Format("FP8_ROWS", 1, (Part(1, 1), Part(4, 0)), _dequantize, of=("F8_E4M3", "F32"))
