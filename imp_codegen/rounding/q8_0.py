"""q8_0: blocks of 32 weights, int8 codes and a float16 scale, by which the largest weight becomes 127.

As ggml rounds (ggml-quants.c, quantize_row_q8_0_ref): by the scale before it is rounded itself, halves away from zero.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Floats
from imp_codegen.rounding import Rounding
from imp_codegen.rounding._scales import SMALLEST

_PER = 32
_BLOCK = np.dtype([("d", "<f2"), ("q", "i1", _PER)])


def _round(weights: Floats) -> Bytes:
    values = weights.reshape(-1, _PER)
    scales = np.abs(values).max(axis=1) / np.float32(127)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales >= SMALLEST)  # others are zero as float16
    exact = values * inverse[:, None]
    sizes = np.abs(exact)
    whole = np.floor(sizes)
    whole += np.floor(2 * (sizes - whole))
    blocks = np.empty(len(values), _BLOCK)
    blocks["d"] = scales
    blocks["q"] = np.copysign(whole, exact)
    return blocks.view(np.uint8).reshape(len(weights), -1)


ROUNDING = Rounding("q8_0", "Q8_0", _PER, _round, largest=127 * 65504.0)
