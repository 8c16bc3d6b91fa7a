"""Rotary embeddings: by how much each pair of a head's elements turns from one position to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of the first `dim` elements of a head.

    Pair p turns by position * theta^(-2p/dim) / factors[p] radians; `factors` is empty where no scaling is used.
    `interleaved`: pairs are (2p, 2p + 1), otherwise (p, p + dim / 2). `magnitude` multiplies cosines and sines.
    """

    dim: int
    theta: float
    interleaved: bool
    factors: tuple[float, ...] = ()
    magnitude: float = 1.0


def rope_turns(rope: RopeSpec) -> NDArray[np.uint64]:
    """Turns of each pair per position, as 64-bit fixed-point fractions of a turn.

    The frequencies are rounded to float32 where Hugging Face's rotary embedding rounds them; from there on the angle is
    exact at every position.
    """
    exponent = np.arange(0, rope.dim, 2, dtype=np.int64).astype(np.float32) / np.float32(rope.dim)
    frequency = (np.float32(1.0) / np.float32(rope.theta) ** exponent).astype(np.float32)
    if rope.factors:
        frequency = (frequency / np.asarray(rope.factors, np.float32)).astype(np.float32)
    return np.array([round(float(f) / (2 * math.pi) * 2**64) % 2**64 for f in frequency], np.uint64)


def turns_plane(index: int) -> str:
    """The name of the plane with the turns of a graph's rotary embedding of that index."""
    return f"rope.turns.{index}"
