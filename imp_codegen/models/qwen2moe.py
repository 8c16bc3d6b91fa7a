"""Qwen2's mixtures of experts (GGUF `qwen2moe`), Qwen1.5-MoE among them: all tokens go to one more expert as well."""

import re

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._experts import Experts, experts_source
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import Below, Source
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Qwen2MoeForCausalLM": {
        "decoder_sparse_step": 1,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": False,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-6,
        "shared_expert_intermediate_size": 5632,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
}
_LAYER = LAYER | {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_PARTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; a folder has a tensor for each expert, and the shared one's gate lies below the router."""
    if router := re.fullmatch(r"(blk\.\d+\.ffn_gate_inp)\.weight", weight):
        return Below(tuple(usual(name, dialect, _LAYER) for name in (weight, f"{router[1]}_shexp.weight")))
    return experts_source(weight, spec, dialect, "mlp.experts", _PARTS) or usual(weight, dialect, _LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    ways = Experts(normalise=False, shared=True)
    return read_decoder(checkpoint, "qwen2moe", Variant(biases=("q", "k", "v"), experts=ways))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
