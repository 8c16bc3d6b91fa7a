"""Codes of four bits that a table gives their meaning, 16 bytes a block of 32: byte i = q[2i] | q[2i+1] << 4.

So four neighbours are a selector of four bytes of a table in registers.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes


def pack_pairs(codes: Bytes) -> Bytes:
    """Codes uint8[n, cols] as uint8[n, cols / 2]."""
    pairs = np.ascontiguousarray(codes).view("<u2")
    packed: Bytes = (pairs | pairs >> np.uint16(4)).astype(np.uint8)
    return packed


def unpack_pairs(packed: Bytes) -> Bytes:
    """The codes again, uint8[n, cols]."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
