"""Llama 2 and 3, and the many models that share the architecture (GGUF `llama`).

The converter permutes the rows of q and k, so that rotary pairs are neighbours (2p, 2p + 1).
"""

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._decoder import Variant, build_decoder, read_decoder
from imp_codegen.models._source import interleaved_source
from imp_codegen.spec import ModelSpec

source = interleaved_source
CLASSES = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "use_sliding_window": False},
    "MistralForCausalLM": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers from GGUF metadata."""
    return read_decoder(checkpoint, "llama", Variant(interleaved_rope=True))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
