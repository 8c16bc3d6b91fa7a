"""Qwen3, dense (GGUF `qwen3`): RMS norm of every query and key head before the rotary embedding."""

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Qwen3ForCausalLM": {
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers from GGUF metadata."""
    return read_decoder(checkpoint, "qwen3", Variant(head_norms=True))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
