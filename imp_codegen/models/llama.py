"""Llama 2 and 3, and the many models that share the architecture (GGUF `llama`), Mixtral with its experts among them.

The converter permutes the rows of q and k, so that rotary pairs are neighbours (2p, 2p + 1).
"""

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._experts import Experts, experts_source
from imp_codegen.models._source import LAYER, interleaved_source
from imp_codegen.sources import Source
from imp_codegen.spec import ModelSpec

_MISTRAL = {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}
CLASSES = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "use_sliding_window": False},
    "MistralForCausalLM": _MISTRAL,
    "MinistralForCausalLM": _MISTRAL,  # whose layer_types say which layers see a window
    "MixtralForCausalLM": {
        "max_position_embeddings": 131072,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
    },
}
_LAYER = LAYER | {"ffn_gate_inp": "block_sparse_moe.gate"}
_PARTS = {"gate": "w1", "up": "w3", "down": "w2"}  # Mixtral's


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual, q and k permuted; a folder of Mixtral has a tensor for each expert."""
    found = experts_source(weight, spec, dialect, "block_sparse_moe.experts", _PARTS)
    return found or interleaved_source(weight, spec, dialect, _LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers from GGUF metadata."""
    return read_decoder(checkpoint, "llama", Variant(interleaved_rope=True, experts=Experts("feed_forward_length")))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
