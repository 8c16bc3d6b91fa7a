"""Half precision (layout/cache_f16.h).

In the row of position p, 16-byte chunk c lies at c ^ (p % n), n the largest of 8, 4, 2, 1 that divides the chunks: a
block copied to shared memory as it is can then be read without bank conflicts.
"""

from __future__ import annotations

import numpy as np

from imp_codegen.cache import Bytes, CacheFormat, Floats

# Of the step between two halves: what float32 sums in another order move a value by, and several times that.
_TIE = 5e-2


def _keep(x: Floats, ties: bool) -> Floats:
    half = x.astype(np.float16)
    if ties:
        rest = x - half.astype(np.float32)
        farther = np.abs(rest) > (0.5 - _TIE) * np.abs(np.spacing(half).astype(np.float32))
        half = np.where(farther, np.nextafter(half, np.copysign(np.float16(np.inf), rest).astype(np.float16)), half)
    return half.astype(np.float32)


def _decode(rows: Bytes) -> Floats:
    chunks = rows.shape[-1] // 16
    spread = next(n for n in (8, 4, 2, 1) if chunks % n == 0)
    order = np.arange(chunks) ^ (np.arange(rows.shape[-2])[:, None] % spread)
    split = rows.reshape(*rows.shape[:-1], chunks, 16)
    in_order = np.take_along_axis(split, order.reshape(*(1,) * (split.ndim - 3), *order.shape, 1), axis=-2)
    decoded: Floats = np.ascontiguousarray(in_order).reshape(rows.shape).view("<f2").astype(np.float32)
    return decoded


FORMAT = CacheFormat("f16", "CacheF16", lambda head_dim: head_dim * 2, _keep, _decode)
