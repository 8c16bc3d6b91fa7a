"""Gemma 2 (GGUF `gemma2`): norms before and behind, GELU, soft caps, and a window in every other layer.

GGUF files hold no scale of attention: llama.cpp takes heads of their own size, but for the 27B.
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder, read_pattern
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.models._source import gemma_source
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 2
_LAYERS_27B = 46

source = gemma_source
CLASSES = {
    "Gemma2ForCausalLM": {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta, hf = checkpoint.metadata, checkpoint.dialect == "hf"
    spec = read_decoder(checkpoint, "gemma2", Variant(activation="gelu_tanh", norms="both"))
    cap, final = (
        meta.number(f"gemma2.{name}_logit_softcapping", 0.0 if hf else usual, minimum=0, maximum=MAX_SCALE)
        for name, usual in (("attn", 50.0), ("final", 30.0))
    )
    local = read_pattern(checkpoint, "gemma2", len(spec.layers), _PERIOD)

    def layer(index: int) -> LayerSpec:
        mixer = replace(spec.layers[index].mixer, softcap=cap)
        if hf:
            mixer = replace(mixer, scale=meta.number("query_pre_attn_scalar", minimum=1e-6, maximum=MAX_SCALE) ** -0.5)
        elif len(spec.layers) == _LAYERS_27B:
            mixer = replace(mixer, scale=(spec.hidden / mixer.heads) ** -0.5)
        return replace(spec.layers[index], mixer=mixer if local[index] else replace(mixer, window=0))

    layers = tuple(map(layer, range(len(spec.layers))))
    return replace(spec, layers=layers, embedding_scale=spec.hidden**0.5, logit_softcap=final)


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
