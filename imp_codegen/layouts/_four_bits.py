"""Codes of four bits in 16 bytes a block of 32: byte i = q[i] | q[16+i] << 4."""

from __future__ import annotations

import numpy as np

from imp_codegen.formats import Bytes


def pack_four(codes: Bytes) -> Bytes:
    """Codes uint8[n, cols] as uint8[n, cols / 2]."""
    halves = codes.reshape(len(codes), -1, 2, 16)
    return (halves[:, :, 0] | halves[:, :, 1] * np.uint8(16)).reshape(len(codes), -1)


def unpack_four(packed: Bytes) -> Bytes:
    """The codes again, uint8[n, cols]."""
    blocks = packed.reshape(len(packed), -1, 16)
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1).reshape(len(packed), -1)
