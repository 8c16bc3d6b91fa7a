"""Gemma 3, its text (GGUF `gemma3`): norms before and behind, GELU, and layers of two kinds.

Local layers see a window and turn by their own base, unscaled; every sixth layer is global. Files hold no scale of
attention: llama.cpp takes that of the heads, but for the 27B (https://github.com/ggml-org/llama.cpp,
src/llama-model.cpp).
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder, read_pattern
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.rope import RopeSpec
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 6
_LAYERS_27B = 62


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta = checkpoint.metadata
    spec = read_decoder(checkpoint, "gemma3", Variant(head_norms=True, activation="gelu_tanh", norms="both"))
    local_base = meta.number("gemma3.rope.freq_base_swa", 10000.0, minimum=1e-3, maximum=MAX_SCALE)
    local = read_pattern(checkpoint, "gemma3", len(spec.layers), _PERIOD)

    def layer(index: int) -> LayerSpec:
        mixer = spec.layers[index].mixer
        if len(spec.layers) == _LAYERS_27B:
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
