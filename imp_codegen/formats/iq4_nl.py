"""IQ4_NL: blocks of 32 weights, w = d * values[q], q 4 bits.

In the file (ggml-common.h, block_iq4_nl, kvalues_iq4nl): d f16, qs[16] as in Q4_0.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import IQ4, Bytes, Codes, Format, Part, nibbles

_BLOCK = np.dtype([("d", "V2"), ("qs", "u1", 16)])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    return nibbles(blocks["qs"]).reshape(len(raw), -1), np.ascontiguousarray(blocks["d"]).view(np.uint8)


_CODES = Codes(32, _split, IQ4)
FORMAT = Format("IQ4_NL", 32, (Part(18, 32),), _CODES.dequantize, ggml_type=20, codes=_CODES)
