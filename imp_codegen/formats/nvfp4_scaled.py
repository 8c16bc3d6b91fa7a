"""NVFP4_SCALED: NVFP4 and a float32 factor for the whole tensor, w = factor * (s / 2 * values[q]).

In a GGUF file the factor of `blk.0.ffn_up.weight` is the tensor `blk.0.ffn_up.scale` (llama.cpp, src/llama-model.cpp).
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats, Format, Part, format_named


def _dequantize(raw: Bytes) -> Floats:
    factors = np.ascontiguousarray(raw[:, -4:]).view("<f4")
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any factor; its weights are the file's values
        weights: Floats = format_named("NVFP4").dequantize(raw[:, :-4]) * factors
    return weights


FORMAT = Format("NVFP4_SCALED", 64, (Part(36, 64), Part(4, 0)), _dequantize, of=("NVFP4", "F32"))
