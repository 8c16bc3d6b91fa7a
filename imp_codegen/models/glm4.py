"""GLM-4-0414, dense (GGUF `glm4`): norms before and behind, neighbours of half of each head turn, gate and up are one.

q, k and v may have biases. In both kinds of files gate and up are one matrix, which is taken apart.
"""

from __future__ import annotations

import re

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import Rows, Source
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Glm4ForCausalLM": {
        "attention_bias": True,
        "attention_out_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 0.00000015625,
    },
}
_LAYER = LAYER | {
    "ffn_up": "mlp.gate_up_proj",
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; of `ffn_up` the first rows are gate's."""
    part = re.fullmatch(r"(blk\.(\d+)\.)ffn_(gate|up)\.weight", weight)
    if part is None:
        return usual(weight, dialect, _LAYER)
    width = spec.layers[int(part[2])].ffn.width
    begin = 0 if part[3] == "gate" else width
    return Rows(usual(f"{part[1]}ffn_up.weight", dialect, _LAYER), begin, begin + width)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    return read_decoder(checkpoint, "glm4", Variant(interleaved_rope=True, norms="both"))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
