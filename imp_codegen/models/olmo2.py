"""OLMo 2 and 3 (GGUF `olmo2`): norms behind the branches, and of all heads of q together, as of those of k.

OLMo 3 has layers of two kinds: local ones see a window and turn unscaled. GGUF files have both under one name; where
there is a window, every fourth layer is global.
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder, read_pattern
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.models._source import POST_LAYER, usual
from imp_codegen.rope import RopeSpec
from imp_codegen.sources import Source
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 4
_COMMON = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}
CLASSES = {
    "Olmo2ForCausalLM": {**_COMMON, "rope_theta": 500000.0},
    "Olmo3ForCausalLM": {**_COMMON, "rope_theta": 500000.0, "sliding_window": 4096},
}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; transformers calls the norms behind the branches post_attention and post_feedforward."""
    return usual(weight, dialect, POST_LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta = checkpoint.metadata
    spec = read_decoder(checkpoint, "olmo2", Variant(whole_norms=True, norms="post"))
    if not meta.integer("olmo2.attention.sliding_window", 0):
        return spec
    local = read_pattern(checkpoint, "olmo2", len(spec.layers), _PERIOD)
    if meta.string("olmo2.rope.scaling_swa.type", "default") != "default":
        raise meta.wrong("olmo2.rope.scaling_swa.type", "default")
    base = meta.number("olmo2.rope.freq_base", 10000.0, minimum=1e-3, maximum=MAX_SCALE)
    theta = meta.number("olmo2.rope.freq_base_swa", base, minimum=1e-3, maximum=MAX_SCALE)

    def layer(index: int) -> LayerSpec:
        mixer = spec.layers[index].mixer
        near = replace(mixer, rope=RopeSpec(mixer.head_dim, theta, interleaved=False))
        return replace(spec.layers[index], mixer=near if local[index] else replace(mixer, window=0))

    return replace(spec, layers=tuple(map(layer, range(len(spec.layers)))))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
