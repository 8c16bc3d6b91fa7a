"""Granite 3 and 4, dense (GGUF `granite`): Llama with four scales; the logits are divided by theirs."""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import Variant, read_decoder
from imp_codegen.models._rope import MAX_SCALE
from imp_codegen.models._source import interleaved_source
from imp_codegen.spec import ModelSpec

source = interleaved_source
CLASSES = {
    "GraniteForCausalLM": {"attention_multiplier": 1.0, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
}


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    spec = read_decoder(checkpoint, "granite", Variant(interleaved_rope=True))

    def scale(name: str) -> float:
        return checkpoint.metadata.number(f"granite.{name}", 0.0, minimum=0, maximum=MAX_SCALE) or 1.0

    return replace(
        spec,
        embedding_scale=scale("embedding_scale"),
        residual_scale=scale("residual_scale"),
        logit_scale=1 / scale("logit_scale"),
    )


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
