"""TQ2_0: superblocks of 256 weights with one scale, w = d * (q - 1), q 2 bits: ternary weights, where no q is 3.

In the file (ggml-common.h, block_tq2_0): qs[64], d f16. Codes lie as Q2_K's.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Codes, Format, Part, two_bits

_BLOCK = np.dtype([("qs", "u1", 64), ("d", "V2")])


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    codes = two_bits(np.ascontiguousarray(blocks["qs"])).reshape(len(raw), -1)
    return codes, np.ascontiguousarray(blocks["d"]).view(np.uint8).reshape(len(raw), -1)


_CODES = Codes(256, _split, (-1, 0, 1, 2))

FORMAT = Format("TQ2_0", 256, (Part(66, 256),), _CODES.dequantize, ggml_type=35, codes=_CODES)
