"""EXAONE 4 (GGUF `exaone4`): norms behind the branches, normed heads, and in the 32B layers of two kinds.

Local layers see a window; global ones see all and do not turn q and k by their positions.
"""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder, read_pattern
from imp_codegen.models._source import POST_LAYER, usual
from imp_codegen.sources import Source
from imp_codegen.spec import LayerSpec, ModelSpec

_PERIOD = 4
CLASSES = {
    "Exaone4ForCausalLM": {
        "max_position_embeddings": 2048,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
    },
}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; transformers calls the norms behind the branches post_attention and post_feedforward."""
    return usual(weight, dialect, POST_LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    spec = read_decoder(checkpoint, "exaone4", Variant(head_norms=True, norms="post"))
    if not checkpoint.metadata.integer("exaone4.attention.sliding_window", 0):
        read_pattern(checkpoint, "exaone4", len(spec.layers), _PERIOD)  # of a window that there is not
        return spec
    local = read_pattern(checkpoint, "exaone4", len(spec.layers), _PERIOD)

    def layer(index: int) -> LayerSpec:
        mixer = spec.layers[index].mixer
        return replace(spec.layers[index], mixer=mixer if local[index] else replace(mixer, window=0, rope=None))

    return replace(spec, layers=tuple(map(layer, range(len(spec.layers)))))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
