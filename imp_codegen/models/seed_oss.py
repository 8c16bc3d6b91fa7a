"""Seed-OSS (GGUF `seed_oss`): Llama with biases of q, k and v; GGUF has another name for the norm before the MLP."""

from imp_codegen.checkpoint import Checkpoint, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._source import usual
from imp_codegen.sources import Source, Tensor
from imp_codegen.spec import ModelSpec

CLASSES = {
    "SeedOssForCausalLM": {
        "attention_bias": True,
        "attention_out_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
    },
}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual but for the name of one norm."""
    if dialect == "gguf":
        return Tensor(weight.replace("ffn_norm", "post_attention_norm"))
    return usual(weight, dialect)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    return read_decoder(checkpoint, "seed_oss", Variant())


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
