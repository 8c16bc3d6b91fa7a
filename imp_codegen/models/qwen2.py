"""Qwen2 and Qwen2.5 (GGUF `qwen2`): Llama with biases of q, k and v, and halves of a head that turn together."""

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Qwen2ForCausalLM": {
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    return read_decoder(checkpoint, "qwen2", Variant(biases=("q", "k", "v")))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
