"""ModelSpec: what a model is, in numbers, the same whatever file it came from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from imp_codegen.rope import RopeSpec
from imp_runtime.plan import Pooling, read_json


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads of `head_dim` elements.

    `scale`: factor of the scores. `bias`: q, k and v have one each; `output_bias`: the output projection has one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec
    qk_norm: bool
    bias: bool
    output_bias: bool


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """Gated feed-forward network: down(silu(gate x) * up x), inner width `width`."""

    width: int


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer: pre-norm attention, pre-norm feed-forward network."""

    attention: AttentionSpec
    mlp: MlpSpec


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only language model. `norm_eps` is that of every RMS norm; `context` the longest sequence.

    `pooling`: what a text's embedding is of its final hidden states.
    """

    name: str
    architecture: str
    vocab: int
    hidden: int
    context: int
    norm_eps: float
    tied_embeddings: bool
    pooling: Pooling
    layers: tuple[LayerSpec, ...]

    def to_json(self) -> str:
        """Deterministic JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> ModelSpec:
        """Parse and check; PlanError names the field that is missing or of the wrong type."""
        spec = read_json(ModelSpec, json.loads(text), "spec")
        assert isinstance(spec, ModelSpec)
        return spec
