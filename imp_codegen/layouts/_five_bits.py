"""Codes of five bits in 20 bytes a block of 32, for few instructions a weight.

Five words a to e hold four codes each in the lower five bits of their bytes: q[0..3] to q[16..19]. The other twelve are
spread over the upper three bits: the low three of q[20..23] are a's, of q[24..27] c's and of q[28..31] e's; their bits
3 and 4 are bits 6 and 7 of b, bits 6 and 7 of d, and bit 5 of b and of d. Four words and e are two sections.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes


def pack_five(codes: Bytes) -> tuple[Bytes, Bytes]:
    """Codes uint8[n, cols] as uint8[n, cols / 2] and uint8[n, cols / 8]."""
    words = np.ascontiguousarray(codes).view("<u4").reshape(-1, 8)
    a, b, c, d, e, f, g, h = words.T
    first = np.empty((len(words), 4), "<u4")
    first[:, 0] = a | (f & 0x07070707) << 5
    first[:, 1] = b | (f & 0x18181818) << 3 | (h & 0x08080808) << 2
    first[:, 2] = c | (g & 0x07070707) << 5
    first[:, 3] = d | (g & 0x18181818) << 3 | (h & 0x10101010) << 1
    last = e | (h & 0x07070707) << 5
    return first.view(np.uint8).reshape(len(codes), -1), last.view(np.uint8).reshape(len(codes), -1)


def unpack_five(first: Bytes, last: Bytes) -> Bytes:
    """The codes again, uint8[n, cols]."""
    a, b, c, d = np.moveaxis(first.reshape(len(first), -1, 4, 4), 2, 0)  # rows, blocks, byte
    e = last.reshape(len(last), -1, 4)
    f = a >> 5 | (b >> 6) << 3
    g = c >> 5 | (d >> 6) << 3
    h = e >> 5 | (b >> 5 & 1) << 3 | (d >> 5 & 1) << 4
    codes = np.stack([a & 31, b & 31, c & 31, d & 31, e & 31, f, g, h], axis=2)
    return codes.reshape(len(first), -1)
