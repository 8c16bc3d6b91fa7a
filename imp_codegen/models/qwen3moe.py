"""Qwen3's mixtures of experts (GGUF `qwen3moe`): Qwen3's attention, and in nearly all layers experts."""

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._experts import Experts, experts_source
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import Source
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Qwen3MoeForCausalLM": {
        "decoder_sparse_step": 1,
        "max_position_embeddings": 32768,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
}
_LAYER = LAYER | {"ffn_gate_inp": "mlp.gate"}
_PARTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; a folder has a tensor for each expert."""
    return experts_source(weight, spec, dialect, "mlp.experts", _PARTS) or usual(weight, dialect, _LAYER)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    return read_decoder(checkpoint, "qwen3moe", Variant(head_norms=True, experts=Experts()))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
