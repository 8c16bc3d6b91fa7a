"""Phi-3, Phi-3.5 and Phi-4, dense (GGUF `phi3`): q, k, v in one matrix and gate, up in another, which are taken apart.

Longrope: each pair has a divisor for short sequences and one for long ones, cosines and sines a factor. transformers
changes over when a sequence outgrows the original context, and computes its cache anew; here the longest sequence
decides, when the model is compiled.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import MAX_CONTEXT, Variant, read_decoder
from imp_codegen.models._rope import LONG_FACTORS, MAX_SCALE, SHORT_FACTORS, Divisors, stored_divisors
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import Rows, Source, Tensor
from imp_codegen.spec import AttentionSpec, ModelSpec

CLASSES = {
    "Phi3ForCausalLM": {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "use_sliding_window": True,
    },
}
_LAYER = LAYER | {"ffn_up": "mlp.gate_up_proj"}
_LONGROPE = ("longrope", "su")


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """Rows of `attn_qkv`, in that order, or of `ffn_up`, first gate's."""
    part = re.fullmatch(r"(blk\.(\d+)\.)(attn_([qkv])|ffn_(gate|up))\.weight", weight)
    if part is None:
        return usual(weight, dialect, _LAYER)
    layer = spec.layers[int(part[2])]
    a, width = layer.mixer, layer.ffn.width
    whole: Tensor = usual(f"{part[1]}{'attn_qkv' if part[4] else 'ffn_up'}.weight", dialect, _LAYER)
    ends = np.cumsum([0, a.heads, a.kv_heads, a.kv_heads]) * a.head_dim
    first = "qkv".index(part[4]) if part[4] else ("gate", "up").index(part[5])
    begin, end = (int(ends[first]), int(ends[first + 1])) if part[4] else (first * width, (first + 1) * width)
    return Rows(whole, begin, end)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    spec = read_decoder(checkpoint, "phi3", Variant(rope_scalings=_LONGROPE))
    meta, rope = checkpoint.metadata, spec.layers[0].mixer.rope
    assert rope is not None
    original = meta.integer("phi3.rope.scaling.original_context_length", spec.context, minimum=2, maximum=MAX_CONTEXT)
    factors = _factors(checkpoint, rope.dim // 2)
    if factors is None:
        return spec
    short, long = (
        replace(rope, factors=tuple(f.tolist()), magnitude=_magnitude(spec, checkpoint, original)) for f in factors
    )

    def turned(mixer: AttentionSpec) -> AttentionSpec:
        return replace(mixer, rope=short, long_rope=long)

    layers = tuple(replace(layer, mixer=turned(layer.mixer)) for layer in spec.layers)
    return replace(spec, layers=layers, original_context=original)


def _factors(checkpoint: Checkpoint, pairs: int) -> tuple[Divisors, Divisors] | None:
    """Each pair's divisors in short and in long sequences, if the model has them."""
    meta = checkpoint.metadata
    if checkpoint.dialect == "gguf":
        if SHORT_FACTORS not in checkpoint.tensors and LONG_FACTORS not in checkpoint.tensors:
            return None
        return stored_divisors(checkpoint, SHORT_FACTORS, pairs), stored_divisors(checkpoint, LONG_FACTORS, pairs)
    if meta.string("phi3.rope.scaling.type", "default") not in _LONGROPE:
        return None
    found = []
    for name in ("short", "long"):
        key = f"phi3.rope.scaling.{name}_factors"
        factors = np.array(meta.numbers(key), np.float64)
        if factors.shape != (pairs,) or not (factors > 1 / MAX_SCALE).all():
            raise meta.wrong(key, f"{pairs} positive numbers")
        found.append(factors)
    return found[0], found[1]


def _magnitude(spec: ModelSpec, checkpoint: Checkpoint, original: int) -> float:
    """As the file says, else by how much longer the context has become (transformers, modeling_rope_utils.py)."""
    grown = spec.context / original
    usual_one = math.sqrt(1 + math.log(grown) / math.log(original)) if grown > 1 else 1.0
    default = 1.0 if checkpoint.dialect == "gguf" else usual_one
    return checkpoint.metadata.number("phi3.rope.scaling.attn_factor", default, minimum=1e-3, maximum=1e3)


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
