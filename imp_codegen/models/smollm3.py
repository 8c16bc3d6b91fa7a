"""SmolLM3 (GGUF `smollm3`): Llama, but every fourth layer does not turn q and k by their positions."""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._source import interleaved_source
from imp_codegen.spec import ModelSpec

_PERIOD = 4


source = interleaved_source
CLASSES = {
    "SmolLM3ForCausalLM": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    spec = read_decoder(checkpoint, "smollm3", Variant(interleaved_rope=True))
    turns = _turning(checkpoint, len(spec.layers))
    layers = (
        layer if turns[index] else replace(layer, mixer=replace(layer.mixer, rope=None))
        for index, layer in enumerate(spec.layers)
    )
    return replace(spec, layers=tuple(layers))


def _turning(checkpoint: Checkpoint, layers: int) -> list[bool]:
    """Which layers turn q and k. In a config.json `no_rope_layers` has a 1 for each that does, for all its name."""
    meta, period = checkpoint.metadata, _PERIOD
    if checkpoint.dialect == "hf":
        period = meta.integer("no_rope_layer_interval", _PERIOD, minimum=1)
        if (found := meta.integers("no_rope_layers", (), minimum=0, maximum=1)) and len(found) != layers:
            raise meta.wrong("no_rope_layers", f"0 or 1 for each of the {layers} layers")
        if found:
            return [each == 1 for each in found]
    return [(index + 1) % period != 0 for index in range(layers)]


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
