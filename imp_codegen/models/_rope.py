"""How the rotary embedding of a checkpoint is scaled, as divisors of its frequencies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Metadata
from imp_codegen.rope import RopeSpec

MAX_SCALE = 1e12  # of factors and frequencies: their products stay within float32
STILL = float(np.float32(1e30))  # a divisor after which a pair does not turn
ROPE_FREQUENCIES = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
Divisors = NDArray[np.float64]


def read_rope(
    checkpoint: Checkpoint,
    architecture: str,
    head_dim: int,
    *,
    interleaved: bool,
    others: tuple[str, ...] = (),
    whole_yarn: bool = True,
) -> RopeSpec:
    """The rotary embedding by the keys `<architecture>.rope.*`; CheckpointError for scalings that imp does not know.

    `others`: types of scaling that the architecture itself reads; here they scale nothing. `whole_yarn`: where YaRN
    begins and ends is rounded to whole pairs in GGUF files, which have no key for that.

    As llama.cpp has it: a factor without a type is linear, and the old key `scale_linear` stands in for the new one.
    """
    meta = checkpoint.metadata

    def key(name: str) -> str:
        return f"{architecture}.rope.{name}"

    hf = checkpoint.dialect == "hf"
    if hf:
        part = meta.number(key("partial_factor"), 1.0, minimum=1e-3, maximum=1)
        dim, what = int(head_dim * part), key("partial_factor")
    else:
        dim = meta.integer(key("dimension_count"), default=head_dim, minimum=2, maximum=head_dim)
        what = key("dimension_count")
    if dim % 2 or not dim:
        raise meta.wrong(what, "an even number of elements")
    theta = meta.number(key("freq_base"), default=10000.0, minimum=1e-3, maximum=MAX_SCALE)
    kind = meta.string(key("scaling.type"), default="default" if hf else "linear")
    if kind not in ("none", "default", "linear", "yarn", *(("llama3",) if hf else ()), *others):
        known = "default, linear, yarn or llama3" if hf else f"none, linear or yarn (llama-3 has {ROPE_FREQUENCIES})"
        raise meta.wrong(key("scaling.type"), known)
    divisors, magnitude = stored_divisors(checkpoint, ROPE_FREQUENCIES, dim // 2), 1.0
    if not hf:
        old = meta.number(key("scale_linear"), 1.0, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
        factor = meta.number(key("scaling.factor"), old, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    elif kind not in ("none", "default", *others):
        factor = meta.number(key("scaling.factor"), minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    if kind == "linear":
        divisors = divisors * factor
    elif kind == "yarn":
        divisors = divisors * _yarn(checkpoint, architecture, dim, theta, factor, whole=whole_yarn)
        magnitude = _yarn_magnitude(checkpoint, architecture, factor)
    elif kind == "llama3":
        divisors = _llama3(meta, architecture, dim, theta, factor)
    divisors = np.minimum(divisors, STILL)
    factors = () if (divisors == 1).all() else tuple(divisors.tolist())
    return RopeSpec(dim, theta, interleaved, factors, magnitude)


def _yarn(checkpoint: Checkpoint, architecture: str, dim: int, theta: float, factor: float, *, whole: bool) -> Divisors:
    """By how much YaRN slows each pair: not the fast ones, the slow ones by `factor` (https://arxiv.org/abs/2309.00071).

    Between them lie the pairs that turn `beta_slow` to `beta_fast` times in the original context; where they begin and
    end is rounded to whole pairs unless a config.json says that it is not; of a GGUF file `whole` says it.
    """
    meta, prefix = checkpoint.metadata, f"{architecture}.rope.scaling"
    original = meta.integer(f"{prefix}.original_context_length", minimum=1, maximum=1 << 40)
    betas = (
        meta.number(f"{prefix}.yarn_beta_{name}", usual, minimum=1e-6, maximum=1e6)
        for name, usual in (("fast", 32.0), ("slow", 1.0))
    )
    low, high = (dim * math.log(original / (2 * math.pi * beta)) / (2 * math.log(theta)) for beta in betas)
    if whole if checkpoint.dialect == "gguf" else meta.boolean(f"{prefix}.truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    pairs = np.arange(dim // 2, dtype=np.float64)
    slowed = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
    return 1 / (slowed / factor + 1 - slowed)


def _yarn_magnitude(checkpoint: Checkpoint, architecture: str, factor: float) -> float:
    """The paper's; a config.json may have another, or how it follows from the factor."""
    meta, prefix = checkpoint.metadata, f"{architecture}.rope.scaling"

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    if checkpoint.dialect == "hf":
        scales = [
            meta.number(f"{prefix}.{name}", 0.0, minimum=0, maximum=MAX_SCALE) for name in ("mscale", "mscale_all_dim")
        ]
        if f"{prefix}.attn_factor" in meta:
            return meta.number(f"{prefix}.attn_factor", minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
        if all(scales):
            return magnitude(scales[0]) / magnitude(scales[1])
    return magnitude(1)


def _llama3(meta: Metadata, architecture: str, dim: int, theta: float, factor: float) -> Divisors:
    """Llama 3 slows pairs that turn seldom by `factor`, those that turn often not, and those between by less.

    In float32 as transformers (modeling_rope_utils.py) and llama.cpp's converter compute it, which stores the result:
    so both kinds of files give the same bits.
    """
    low, high, original = (
        np.float32(meta.number(f"{architecture}.rope.scaling.{name}", minimum=1e-3, maximum=MAX_SCALE))
        for name in ("low_freq_factor", "high_freq_factor", "original_context_length")
    )
    if low >= high:
        raise meta.wrong(f"{architecture}.rope.scaling.low_freq_factor", f"less than high_freq_factor ({high})")
    one = np.float32(1)
    frequency = one / (theta ** (np.arange(0, dim, 2) / dim)).astype(np.float32)
    wavelength = np.float32(2 * np.pi) / frequency
    kept = np.clip((original / wavelength - low) / (high - low), np.float32(0), one)
    divisors: Divisors = (one / ((one - kept) / np.float32(factor) + kept)).astype(np.float64)
    return divisors


def stored_divisors(checkpoint: Checkpoint, name: str, pairs: int) -> Divisors:
    """By how much each pair turns slower than its index says: all 1 where the file has no tensor of that name."""
    tensor = checkpoint.tensors.get(name)
    if tensor is None:
        return np.ones(pairs)
    if tensor.format != "F32" or tensor.shape != (pairs,):
        raise CheckpointError(f"{checkpoint.path}: {name} must hold {pairs} F32 numbers")
    divisors = np.ascontiguousarray(checkpoint.rows(name, 0, 1)).view("<f4").reshape(-1)
    odd = np.flatnonzero(~((divisors >= 1 / MAX_SCALE) & (divisors <= STILL)))
    if odd.size:
        raise CheckpointError(f"{checkpoint.path}: {name}[{odd[0]}] is {divisors[odd[0]]}, expected a positive number")
    return divisors.astype(np.float64)
