"""ModelSpec: what a model is, in numbers, the same whatever file it came from."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from imp_codegen.rope import RopeSpec
from imp_runtime.errors import ImpError
from imp_runtime.plan import Pooling

Activation = Literal["silu", "gelu", "gelu_tanh", "clamped_silu"]
Biased = Literal["q", "k", "v", "output", "gate", "up", "down"]
Norms = Literal["pre", "post", "both"]


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Keys and values of all heads are products of one vector of `rank` elements, the latent, which the cache keeps.

    Of a head's queries `nope` elements are compared with it, and `rope` that turn with as many of one key that all
    heads share. `value_dim`: elements of a head's values. `q_rank`: that of the queries' own latent, 0: there is none.
    `joined`: the checkpoint holds the matrices of keys and of values as one, of each head first the keys' rows.
    """

    q_rank: int
    rank: int
    nope: int
    rope: int
    value_dim: int
    joined: bool


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads of `head_dim` elements.

    `scale`: factor of the scores. `rope`: None where positions do not turn q and k. `long_rope`: in its place where
    the longest sequence is beyond `original_context`. `window`: positions that a token sees, its own included; 0:
    all. `softcap`: of the scaled scores; 0: none. `head_norms`: q and k are normed head by head, or with
    `whole_norms` all heads together, each element with a weight of its own; `value_norms`: v too, without a weight.
    `tied_values`: v is what k is before norm and rotation. `shares`: the layer of the cache that it reads, an
    earlier one's, where it has no k and v itself. `sinks`: each head has one more score, without a value. `biases`:
    which of q, k, v and output have one. `latent`: keys and values come of a latent; `head_dim` then is that of what
    turns and the latent together, of which one head is cached.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    long_rope: RopeSpec | None = None
    window: int = 0
    softcap: float = 0.0
    head_norms: bool = False
    whole_norms: bool = False
    value_norms: bool = False
    tied_values: bool = False
    shares: int | None = None
    sinks: bool = False
    biases: tuple[Biased, ...] = ()
    latent: LatentSpec | None = None


@dataclass(frozen=True, slots=True)
class GatedMlpSpec:
    """Gated feed-forward network: down(activation(gate x) * up x), inner width `width`.

    `biases`: which of gate, up and down have one.
    """

    width: int
    activation: Activation = "silu"
    biases: tuple[Biased, ...] = ()


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A mixture of experts: gated feed-forward networks of inner width `width`, of which each token goes to some.

    A router's softmax, or with `sigmoid` that of each expert by itself, chooses `used` of the `experts` and says what
    each counts, times `scale`; `normalise`: of those chosen alone. `corrected`: each expert has a number that is added
    where experts are chosen. Only the best `groups_used` of `groups` groups of neighbours are chosen from. `biased`:
    the router and all matrices of experts have a bias. `shared`: the inner width of an expert to which all tokens go
    as well, 0: there is none; `shared_gate`: a sigmoid says what that one counts. `scaled`: shares are multiplied by a
    number of each expert. `beside`: the inner width of a network that works beside the experts, each with norms of its
    own, 0: there is none. `joined`: the checkpoint holds an expert's gate and up as one matrix, first gate's rows.
    """

    experts: int
    used: int
    width: int
    activation: Activation = "silu"
    normalise: bool = True
    biased: bool = False
    shared: int = 0
    shared_gate: bool = False
    sigmoid: bool = False
    corrected: bool = False
    groups: int = 1
    groups_used: int = 1
    scale: float = 1.0
    scaled: bool = False
    beside: int = 0
    joined: bool = False


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer: what mixes tokens, then what works on each; both are added to the residual stream.

    `norms`: RMS norms stand before each of the two, behind it, or both. `extra`: width of the token's own input to this
    layer, which is added by a third branch; 0: none. `output_scale`: the checkpoint has a factor of what comes out.
    """

    mixer: AttentionSpec
    ffn: GatedMlpSpec | MoeSpec
    norms: Norms = "pre"
    extra: int = 0
    output_scale: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only language model. `norm_eps` is that of every RMS norm; `context` the longest sequence.

    `pooling`: what a text's embedding is of its final hidden states. `embedding_scale` multiplies embeddings,
    `residual_scale` what a layer adds to the residual stream, `logit_scale` the logits, which `logit_softcap` caps
    after that (0: not). `original_context`: the longest sequence for which `rope` is right, 0 if it always is.
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
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    original_context: int = 0

    def to_json(self) -> str:
        """Deterministic JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> ModelSpec:
        """Parse and check; ImpError names the field that is missing or of the wrong type."""
        try:
            return _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ImpError(f"spec.json: {where}: {first['msg']}; compile the model again") from None


@functools.cache
def _adapter() -> TypeAdapter[ModelSpec]:
    return TypeAdapter(ModelSpec)
