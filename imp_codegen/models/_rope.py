"""How the rotary embedding of a checkpoint is scaled, as divisors of its frequencies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.rope import RopeSpec

MAX_SCALE = 1e12  # of factors and frequencies: their products stay within float32
ROPE_FREQUENCIES = "rope_freqs.weight"
Divisors = NDArray[np.float64]


def read_rope(checkpoint: Checkpoint, architecture: str, head_dim: int, *, interleaved: bool) -> RopeSpec:
    """The rotary embedding by the keys `<architecture>.rope.*`; CheckpointError for scalings that imp does not know.

    As llama.cpp has it: a factor without a type is linear, and the old key `scale_linear` stands in for the new one.
    """
    meta = checkpoint.metadata

    def key(name: str) -> str:
        return f"{architecture}.rope.{name}"

    dim = meta.integer(key("dimension_count"), default=head_dim, minimum=2, maximum=head_dim)
    if dim % 2:
        raise meta.wrong(key("dimension_count"), "an even number")
    theta = meta.number(key("freq_base"), default=10000.0, minimum=1e-3, maximum=MAX_SCALE)
    kind = meta.string(key("scaling.type"), default="linear")
    old = meta.number(key("scale_linear"), 1.0, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    factor = meta.number(key("scaling.factor"), old, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    divisors, magnitude = _stored_divisors(checkpoint, dim // 2), 1.0
    if kind == "linear":
        divisors = divisors * factor
    elif kind == "yarn":
        divisors, magnitude = divisors * _yarn(checkpoint, architecture, dim, theta, factor), _yarn_magnitude(factor)
    elif kind not in ("none", "default"):
        raise meta.wrong(key("scaling.type"), f"none, linear or yarn (llama-3 scales by the tensor {ROPE_FREQUENCIES})")
    factors = () if (divisors == 1).all() else tuple(divisors.tolist())
    return RopeSpec(dim, theta, interleaved, factors, magnitude)


def _yarn(checkpoint: Checkpoint, architecture: str, dim: int, theta: float, factor: float) -> Divisors:
    """By how much YaRN slows each pair: not the fast ones, the slow ones by `factor` (https://arxiv.org/abs/2309.00071).

    Between them lie the pairs that turn `beta_slow` to `beta_fast` times in the original context.
    """
    meta, prefix = checkpoint.metadata, f"{architecture}.rope.scaling"
    original = meta.integer(f"{prefix}.original_context_length", minimum=1, maximum=1 << 40)
    betas = (
        meta.number(f"{prefix}.yarn_beta_{name}", usual, minimum=1e-6, maximum=1e6)
        for name, usual in (("fast", 32.0), ("slow", 1.0))
    )
    low, high = (dim * math.log(original / (2 * math.pi * beta)) / (2 * math.log(theta)) for beta in betas)
    low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
    pairs = np.arange(dim // 2, dtype=np.float64)
    slowed = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
    return 1 / (slowed / factor + 1 - slowed)


def _yarn_magnitude(factor: float) -> float:
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def _stored_divisors(checkpoint: Checkpoint, pairs: int) -> Divisors:
    """By how much each pair turns slower than its index says: all 1 where the file has no such tensor."""
    tensor = checkpoint.tensors.get(ROPE_FREQUENCIES)
    if tensor is None:
        return np.ones(pairs)
    if tensor.format != "F32" or tensor.shape != (pairs,):
        raise CheckpointError(f"{checkpoint.path}: {ROPE_FREQUENCIES} must hold {pairs} F32 numbers")
    divisors = np.ascontiguousarray(checkpoint.rows(ROPE_FREQUENCIES, 0, 1)).view("<f4").reshape(-1)
    odd = np.flatnonzero(~((divisors >= 1 / MAX_SCALE) & (divisors <= MAX_SCALE)))
    if odd.size:
        raise CheckpointError(
            f"{checkpoint.path}: {ROPE_FREQUENCIES}[{odd[0]}] is {divisors[odd[0]]}, expected a positive number"
        )
    return divisors.astype(np.float64)
