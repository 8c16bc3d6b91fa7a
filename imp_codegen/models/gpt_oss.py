"""gpt-oss (GGUF `gpt-oss`): heads with sinks, every other layer with a window, and experts with biases.

The first layer sees a window. Whatever the activation is called, it is the clamped one (transformers,
modeling_gpt_oss.py). The norm before the experts has the name of one behind attention.
"""

from __future__ import annotations

import re
from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder, read_pattern
from imp_codegen.models._experts import Experts
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import EverySecond, Flat, Source, Tensor, Transposed
from imp_codegen.spec import LayerSpec, ModelSpec, MoeSpec

_PERIOD = 2
_ALPHA, _LIMIT = 1.702, 7.0  # of the clamped activation
CLASSES = {
    "GptOssForCausalLM": {
        "attention_bias": True,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "sliding_window": 128,
    },
}
_LAYER = LAYER | {"ffn_gate_inp": "mlp.router"}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual, but for sinks and experts; a folder has gate and up of these in turns, a row each."""
    experts = re.fullmatch(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.(weight|bias)", weight)
    if dialect == "gguf":
        biases = experts and experts[3] == "bias"
        return Flat(Tensor(weight)) if biases else Tensor(weight.replace("ffn_norm", "post_attention_norm"))
    if sinks := re.fullmatch(r"blk\.(\d+)\.attn_sinks\.weight", weight):
        return Tensor(f"model.layers.{sinks[1]}.self_attn.sinks")
    if not experts:
        return usual(weight, dialect, _LAYER)
    layer, part, kind = experts.groups()
    name = f"model.layers.{layer}.mlp.experts.{'down_proj' if part == 'down' else 'gate_up_proj'}"
    stored = Flat(Tensor(f"{name}_bias")) if kind == "bias" else Transposed(Tensor(name))
    return stored if part == "down" else EverySecond(stored, ("gate", "up").index(part))


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta, hf = checkpoint.metadata, checkpoint.dialect == "hf"
    # Files of OpenAI's own weights have no word for what its config.json says: YaRN's range is not rounded.
    experts = Experts("feed_forward_length" if hf else "expert_feed_forward_length")
    spec = read_decoder(checkpoint, "gpt-oss", Variant(experts=experts, whole_yarn=False))
    local = read_pattern(checkpoint, "gpt-oss", len(spec.layers), _PERIOD)
    for key, value in {"swiglu_alpha": _ALPHA, "swiglu_limit": _LIMIT}.items():
        if meta.number(key, value) != value:
            raise meta.wrong(key, f"{value}: imp does not compile anything else")

    def layer(index: int) -> LayerSpec:
        old = spec.layers[index]
        if not isinstance(old.ffn, MoeSpec):
            raise meta.wrong("gpt-oss.expert_count", "at least 1")
        if old.ffn.activation != "silu":
            raise meta.wrong("gpt-oss.activation", "silu")
        mixer = replace(old.mixer, sinks=True, window=old.mixer.window if local[index] else 0)
        return replace(old, mixer=mixer, ffn=replace(old.ffn, activation="clamped_silu", biased=True))

    return replace(spec, layers=tuple(map(layer, range(len(spec.layers)))))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
