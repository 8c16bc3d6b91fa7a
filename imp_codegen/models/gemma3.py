"""Gemma 3, its text (GGUF `gemma3`): norms before and behind, GELU, and layers of two kinds.

Local layers see a window and turn by their own base, unscaled; every sixth layer is global. GGUF files hold no
scale of attention: llama.cpp takes that of the heads, but for the 27B (https://github.com/ggml-org/llama.cpp,
src/llama-model.cpp).
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder, read_pattern
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.models._source import gemma_source
from imp_codegen.rope import RopeSpec
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 6
_LAYERS_27B = 62

source = gemma_source
_TEXT = {
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1000000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "vocab_size": 262208,
}
CLASSES = {"Gemma3ForCausalLM": _TEXT, "Gemma3ForConditionalGeneration": _TEXT}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta = checkpoint.metadata
    spec = read_decoder(checkpoint, "gemma3", Variant(head_norms=True, activation="gelu_tanh", norms="both"))
    local_base = meta.number("gemma3.rope.freq_base_swa", 10000.0, minimum=1e-3, maximum=MAX_SCALE)
    if meta.string("gemma3.rope.scaling_swa.type", "default") != "default":
        raise meta.wrong("gemma3.rope.scaling_swa.type", "default")
    # Without a window no layer is local, as llama.cpp has it; one that is longer than the context still says which are.
    windowed = meta.integer("gemma3.attention.sliding_window", 0) > 0
    local = tuple(windowed and each for each in read_pattern(checkpoint, "gemma3", len(spec.layers), _PERIOD))

    def layer(index: int) -> LayerSpec:
        mixer = spec.layers[index].mixer
        if checkpoint.dialect == "hf":
            mixer = replace(mixer, scale=meta.number("query_pre_attn_scalar", minimum=1e-6, maximum=MAX_SCALE) ** -0.5)
        elif len(spec.layers) == _LAYERS_27B:
            mixer = replace(mixer, scale=(spec.hidden / mixer.heads) ** -0.5)
        rope = RopeSpec(mixer.head_dim, local_base, interleaved=False)
        mixer = replace(mixer, rope=rope) if local[index] else replace(mixer, window=0)
        return replace(spec.layers[index], mixer=mixer)

    layers = tuple(map(layer, range(len(spec.layers))))
    softcap = meta.number("gemma3.final_logit_softcapping", 0.0, minimum=0, maximum=MAX_SCALE)
    return replace(spec, layers=layers, embedding_scale=spec.hidden**0.5, logit_softcap=softcap)


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
