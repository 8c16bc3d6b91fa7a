"""Q8_0: blocks of 32 weights, w = d * q.

In the file (ggml-common.h, block_q8_0): d f16, q int8[32].
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Codes, Format, Part

_BLOCK = np.dtype([("d", "<f2"), ("q", "i1", 32)])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    return (
        np.ascontiguousarray(blocks["q"]).view(np.uint8).reshape(len(raw), -1),
        np.ascontiguousarray(blocks["d"]).view(np.uint8),
    )


_CODES = Codes(32, _split)
FORMAT = Format("Q8_0", 32, (Part(34, 32),), _CODES.dequantize, ggml_type=8, codes=_CODES)
