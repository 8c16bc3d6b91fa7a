"""gpt-oss (GGUF `gpt-oss`): heads with sinks, every other layer with a window, and experts with biases.

The first layer sees a window. Whatever the activation is called, it is the clamped one (transformers,
modeling_gpt_oss.py). The norm before the experts has the name of one behind attention.
"""

from __future__ import annotations

import re
from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder, read_pattern
from imp_codegen.models._experts import Experts
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import Flat, Source, Tensor
from imp_codegen.spec import LayerSpec, ModelSpec, MoeSpec

_PERIOD = 2


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; biases of experts are a row for each."""
    if re.fullmatch(r"blk\.\d+\.ffn_\w+_exps\.bias", weight):
        return Flat(Tensor(weight))
    return usual(weight.replace("ffn_norm", "post_attention_norm"), dialect, LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    # OpenAI's own config.json says that YaRN's range is not rounded.
    variant = Variant(experts=Experts(), whole_yarn=False)
    spec = read_decoder(checkpoint, "gpt-oss", variant)
    local = read_pattern(checkpoint, "gpt-oss", len(spec.layers), _PERIOD)

    def layer(index: int) -> LayerSpec:
        old = spec.layers[index]
        assert isinstance(old.ffn, MoeSpec)
        mixer = replace(old.mixer, sinks=True, window=old.mixer.window if local[index] else 0)
        return replace(old, mixer=mixer, ffn=replace(old.ffn, activation="clamped_silu", biased=True))

    return replace(spec, layers=tuple(map(layer, range(len(spec.layers)))))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
