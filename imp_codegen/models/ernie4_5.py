"""ERNIE 4.5, dense (GGUF `ernie4_5`): Llama whose neighbouring elements turn together, in both kinds of files."""

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.spec import ModelSpec

CLASSES = {
    "Ernie4_5ForCausalLM": {
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    return read_decoder(checkpoint, "ernie4_5", Variant(interleaved_rope=True))


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
