"""FP8_BLOCKS: F8_E4M3 codes in one tensor, float32 scales of blocks of 128 rows and 128 columns in another.

transformers' FineGrainedFP8Config, `weight_scale_inv`, which is multiplied by in spite of its name; compressed-tensors'
strategy "block". Blocks at the right and lower edge may be smaller.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import E4M3, Bytes, Floats, Format, Part

_BLOCK = 128


def _dequantize(raw: Bytes) -> Floats:
    cols = FORMAT.cols(raw.shape[1])
    scales = np.ascontiguousarray(raw[:, cols:]).view("<f4")
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any scales; they are its values
        weights: Floats = E4M3[raw[:, :cols]] * np.repeat(scales, _BLOCK, axis=1)[:, :cols]
    return weights


FORMAT = Format("FP8_BLOCKS", 1, (Part(1, 1), Part(4, _BLOCK, rows=_BLOCK)), _dequantize, of=("F8_E4M3", "F32"))
