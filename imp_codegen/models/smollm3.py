"""SmolLM3 (GGUF `smollm3`): Llama, but every fourth layer does not turn q and k by their positions."""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder
from imp_codegen.spec import ModelSpec

_PERIOD = 4


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    spec = read_decoder(checkpoint, "smollm3", Variant(interleaved_rope=True))
    layers = (
        layer if (index + 1) % _PERIOD else replace(layer, mixer=replace(layer.mixer, rope=None))
        for index, layer in enumerate(spec.layers)
    )
    return replace(spec, layers=tuple(layers))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
