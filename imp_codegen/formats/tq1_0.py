"""TQ1_0: superblocks of 256 weights with one scale, w = d * (q - 1), five codes of 0, 1 or 2 a byte.

In the file (ggml-common.h, block_tq1_0): qs[48], qh[4], d f16. A byte b is a number below 3^5 times 256 / 3^5, so that
its code n is (b * 3^n mod 256) * 3 div 256. Codes n of the first 32 bytes of qs are weights 32 n to 32 n + 31, of the
other 16 weights 160 + 16 n and so on; qh has four codes a byte, weights 240 + 4 n and so on.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes, Codes, Format, Part

_BLOCK = np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "V2")])
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def _split(raw: Bytes) -> tuple[Bytes, Bytes]:
    blocks = raw.view(_BLOCK)
    parts = (blocks["qs"][..., :32], blocks["qs"][..., 32:], blocks["qh"])
    turned = [
        (part[..., None, :] * powers[:, None]).reshape(*blocks.shape, -1)
        for part, powers in zip(parts, (_POWERS, _POWERS, _POWERS[:4]), strict=True)
    ]
    codes = (np.concatenate(turned, axis=-1).astype(np.uint16) * np.uint16(3) >> 8).astype(np.uint8)
    return codes.reshape(len(raw), -1), np.ascontiguousarray(blocks["d"]).view(np.uint8).reshape(len(raw), -1)


_CODES = Codes(256, _split, (-1, 0, 1))

FORMAT = Format("TQ1_0", 256, (Part(54, 256),), _CODES.dequantize, ggml_type=34, codes=_CODES)
