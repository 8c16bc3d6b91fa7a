"""Gemma 2 (GGUF `gemma2`): norms before and behind, GELU, soft caps, and a window in every other layer.

Files hold no scale of attention: llama.cpp takes heads of their own size, but for the 27B.
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder, read_pattern
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 2
_LAYERS_27B = 46


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta = checkpoint.metadata
    spec = read_decoder(checkpoint, "gemma2", Variant(activation="gelu_tanh", norms="both"))
    cap, final = (
        meta.number(f"gemma2.{name}_logit_softcapping", usual, minimum=0, maximum=MAX_SCALE)
        for name, usual in (("attn", 50.0), ("final", 30.0))
    )
    local = read_pattern(checkpoint, "gemma2", len(spec.layers), _PERIOD)

    def layer(index: int) -> LayerSpec:
        mixer = replace(spec.layers[index].mixer, softcap=cap)
        if len(spec.layers) == _LAYERS_27B:
            mixer = replace(mixer, scale=(spec.hidden / mixer.heads) ** -0.5)
        return replace(spec.layers[index], mixer=mixer if local[index] else replace(mixer, window=0))

    layers = tuple(map(layer, range(len(spec.layers))))
    return replace(spec, layers=layers, embedding_scale=spec.hidden**0.5, logit_softcap=final)


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
