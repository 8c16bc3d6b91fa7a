"""What the decoder-only architectures share: reading their numbers, and their graph.

Keys and weights are called as the GGUF specification calls them (ggml/docs/gguf.md): `<arch>.block_count`,
`blk.<n>.attn_q.weight`, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.graph import Graph, Op, Value, Weight
from imp_codegen.models._config import config_activation, config_biases, config_windows
from imp_codegen.models._experts import Experts, read_experts
from imp_codegen.models._pooling import read_pooling
from imp_codegen.models._rope import MAX_SCALE, read_rope
from imp_codegen.ops import (
    Add,
    Attention,
    Combine,
    Embed,
    ExpertLinear,
    Gated,
    HeadLinear,
    HeadNorm,
    Join,
    Linear,
    RmsNorm,
    Rope,
    Route,
    Sample,
    Scale,
    ScaleBy,
    Softcap,
    Weigh,
)
from imp_codegen.rope import RopeSpec
from imp_codegen.spec import (
    Activation,
    AttentionSpec,
    Biased,
    GatedMlpSpec,
    LatentSpec,
    LayerSpec,
    ModelSpec,
    MoeSpec,
    Norms,
)
from imp_runtime.text import plain_name

MAX_CONTEXT = 1 << 22
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 22
_OF_MLP: tuple[Biased, ...] = ("gate", "up", "down")
_BIASES: Mapping[Biased, str] = {
    **{part: f"attn_{part}" for part in ("q", "k", "v", "output")},
    **{part: f"ffn_{part}" for part in _OF_MLP},
}


@dataclass(frozen=True, slots=True)
class Variant:
    """How an architecture differs from Llama.

    `interleaved_rope`: of the files that GGUF's converter writes. `biases`: those that transformers gives every model
    of it, without a word in config.json. `rope_scalings`: types that its own file reads. `whole_yarn`: of GGUF files,
    as `read_rope` has it. `whole_norms`: q and k are normed, all heads together. `experts`: it may be a mixture of
    such. `read_attention`: the attention of each layer in a way of its own.
    """

    interleaved_rope: bool = False
    head_norms: bool = False
    whole_norms: bool = False
    activation: Activation = "silu"
    norms: Norms = "pre"
    biases: tuple[Biased, ...] = ()
    rope_scalings: tuple[str, ...] = ()
    whole_yarn: bool = True
    experts: Experts | None = None
    read_attention: Callable[[Checkpoint, int], tuple[AttentionSpec, ...]] | None = None


def read_decoder(checkpoint: Checkpoint, architecture: str, variant: Variant) -> ModelSpec:
    """The spec of a decoder. CheckpointError names the key or tensor that is missing, odd or unsupported."""
    meta = checkpoint.metadata
    layers = meta.integer(f"{architecture}.block_count", minimum=1, maximum=1024)
    attention = (
        variant.read_attention(checkpoint, layers)
        if variant.read_attention
        else _read_attention(checkpoint, architecture, layers, variant)
    )
    widths = meta.integers_of_layers(f"{architecture}.feed_forward_length", layers, minimum=1, maximum=MAX_WIDTH)
    own = _OwnWays.of(checkpoint, variant, layers)
    experts = read_experts(checkpoint, architecture, layers, own.activation, variant.experts)

    def layer(index: int) -> LayerSpec:
        of_attention, of_mlp = (tuple(b for b in own.biases[index] if (b in _OF_MLP) == mlp) for mlp in (False, True))
        mixer = attention[index]
        mixer = replace(mixer, biases=of_attention, window=mixer.window if own.windows[index] else 0)
        ffn = experts[index] or GatedMlpSpec(widths[index], own.activation, of_mlp)
        return LayerSpec(mixer, ffn, variant.norms)

    return ModelSpec(
        name=plain_name(checkpoint.name) or architecture,
        architecture=architecture,
        vocab=own.vocab,
        hidden=meta.integer_of_layers(f"{architecture}.embedding_length", layers, minimum=1, maximum=MAX_WIDTH),
        context=meta.integer(f"{architecture}.context_length", minimum=2, maximum=MAX_CONTEXT),
        norm_eps=meta.number(f"{architecture}.attention.layer_norm_rms_epsilon", minimum=0, maximum=1),
        tied_embeddings=own.tied_embeddings,
        pooling=read_pooling(checkpoint, architecture),
        layers=tuple(map(layer, range(layers))),
    )


@dataclass(frozen=True, slots=True)
class _OwnWays:
    """What the two dialects say in ways of their own: GGUF files by the tensors that they have, folders by keys.

    `biases` and `windows`: of each layer.
    """

    vocab: int
    tied_embeddings: bool
    activation: Activation
    biases: tuple[tuple[Biased, ...], ...]
    windows: tuple[bool, ...]

    @staticmethod
    def of(checkpoint: Checkpoint, variant: Variant, layers: int) -> _OwnWays:
        """Those of a checkpoint."""
        meta, has = checkpoint.metadata, checkpoint.tensors.__contains__
        if checkpoint.dialect == "hf":
            return _OwnWays(
                vocab=meta.integer("vocab_size", minimum=1, maximum=MAX_VOCABULARY),
                tied_embeddings=meta.boolean("tie_word_embeddings", False),
                activation=config_activation(meta, variant.activation),
                biases=(config_biases(meta, variant.biases),) * layers,
                windows=config_windows(meta, layers),
            )
        embedding = checkpoint.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise CheckpointError(f"{checkpoint.path}: has no two-dimensional tensor 'token_embd.weight'")
        return _OwnWays(
            vocab=embedding.shape[0],
            tied_embeddings=not has("output.weight"),
            activation=variant.activation,
            biases=tuple(
                tuple(part for part, name in _BIASES.items() if has(f"blk.{index}.{name}.bias"))
                for index in range(layers)
            ),
            windows=(True,) * layers,
        )


def _read_attention(
    checkpoint: Checkpoint, architecture: str, layers: int, variant: Variant
) -> tuple[AttentionSpec, ...]:
    """The attention of each layer, but for its biases."""
    meta = checkpoint.metadata

    def number(key: str, maximum: int, default: int | None = None) -> int:
        return meta.integer_of_layers(f"{architecture}.{key}", layers, default, minimum=1, maximum=maximum)

    def numbers(key: str, default: int | None = None) -> list[int]:
        return meta.integers_of_layers(f"{architecture}.attention.{key}", layers, default, minimum=1, maximum=4096)

    hidden, heads = number("embedding_length", MAX_WIDTH), numbers("head_count")
    kv_heads = numbers("head_count_kv") if f"{architecture}.attention.head_count_kv" in meta else heads
    head_dim = number("attention.key_length", 4096, default=max(hidden // heads[0], 1))
    value_dim = number("attention.value_length", 4096, default=head_dim)
    for each, kv_each in zip(heads, kv_heads, strict=True):
        if each % kv_each:
            raise CheckpointError(
                f"{meta.path}: {meta.spelled(f'{architecture}.attention.head_count')} {each} is not a multiple of "
                f"{meta.spelled(f'{architecture}.attention.head_count_kv')} {kv_each}"
            )
    if value_dim != head_dim:
        raise CheckpointError(
            f"{checkpoint.path}: attention.value_length {value_dim} differs from key_length {head_dim}, "
            "which is unsupported"
        )
    # 0 is llama.cpp's word for the usual one.
    scale = meta.number(f"{architecture}.attention.scale", 0.0, minimum=0, maximum=MAX_SCALE) or 1.0 / head_dim**0.5
    context = meta.integer(f"{architecture}.context_length", minimum=2, maximum=MAX_CONTEXT)
    window = meta.integer(f"{architecture}.attention.sliding_window", 0, maximum=MAX_CONTEXT)
    rope = read_rope(
        checkpoint,
        architecture,
        head_dim,
        interleaved=variant.interleaved_rope,
        others=variant.rope_scalings,
        whole_yarn=variant.whole_yarn,
    )
    return tuple(
        AttentionSpec(
            each,
            kv_each,
            head_dim,
            scale,
            rope,
            window=window if window < context else 0,
            head_norms=variant.head_norms or variant.whole_norms,
            whole_norms=variant.whole_norms,
        )
        for each, kv_each in zip(heads, kv_heads, strict=True)
    )


def read_pattern(checkpoint: Checkpoint, architecture: str, layers: int, period: int) -> tuple[bool, ...]:
    """Which layers see a window only: all but each `period`-th, or as the file says, for each layer or by a period."""
    meta, key = checkpoint.metadata, f"{architecture}.attention.sliding_window_pattern"
    if checkpoint.dialect == "hf" and "layer_types" in meta:
        # What layer_types were made from, once.
        meta.string(key) if isinstance(meta.value(key), str) else meta.integer(key, period)
        return config_windows(meta, layers)
    if isinstance(meta.value(key), int):
        period = meta.integer(key, minimum=1, maximum=layers + 1)
    elif key in meta:
        found = tuple(meta.booleans(key))
        if len(found) != layers:
            raise meta.wrong(key, f"true or false for each of the {layers} layers")
        return found
    return tuple((index + 1) % period != 0 for index in range(layers))


def build_decoder(spec: ModelSpec) -> Graph:
    """The graph of one step, from token ids to the next token."""
    embedding = Weight("token_embd.weight", spec.vocab, spec.hidden)
    x = Value("embed", spec.hidden)
    ops: list[Op] = [Embed(x, embedding, spec.embedding_scale)]
    extra = _extra_inputs(ops, spec, x)
    for index, layer in enumerate(spec.layers):
        x = _Block(ops, spec, layer, index).build(x, extra)
    normed = Value("output_norm", spec.hidden)
    ops.append(RmsNorm(normed, x, Weight("output_norm.weight", 1, spec.hidden), spec.norm_eps))
    head = embedding if spec.tied_embeddings else Weight("output.weight", spec.vocab, spec.hidden)
    logits = Value("logits", spec.vocab)
    ops.append(Linear(logits, normed, head))
    if spec.logit_scale != 1:
        ops.append(Scale(Value("scaled_logits", spec.vocab), logits, spec.logit_scale))
    if spec.logit_softcap:
        ops.append(Softcap(Value("capped_logits", spec.vocab), ops[-1].out, spec.logit_softcap))
    ops.append(Sample(Value("token", 1), ops[-1].out))
    return Graph(tuple(ops))


def _extra_inputs(ops: list[Op], spec: ModelSpec, x: Value) -> Value | None:
    """Of all layers that have one, side by side: a row of a table by the token, and a projection of its embedding x.

    (row * sqrt(width) + norm(project(x) / sqrt(hidden))) / sqrt(2), as transformers' modeling_gemma4.py has it; the
    factor before the norm is in its eps.
    """
    width = spec.layers[0].extra
    if not width:
        return None
    total = width * len(spec.layers)
    table, project = (
        Weight(f"per_layer_{name}.weight", rows, cols)
        for name, rows, cols in (("token_embd", spec.vocab, total), ("model_proj", total, spec.hidden))
    )
    row, projected, normed, out = (
        Value(f"per_layer_{name}", total) for name in ("embed", "model_proj", "proj_norm", "inputs")
    )
    ops.append(Linear(projected, x, project))
    ops.append(Embed(row, table, (width / 2) ** 0.5))
    weight = Weight("per_layer_proj_norm.weight", 1, width)
    ops.append(HeadNorm(normed, projected, weight, width, spec.norm_eps * spec.hidden))
    ops.append(Add(out, row, normed, 0.5**0.5))
    return out


@dataclass(frozen=True, slots=True)
class _Block:
    """One layer; its operations are appended to `ops`."""

    ops: list[Op]
    spec: ModelSpec
    layer: LayerSpec
    index: int

    def build(self, x: Value, extra: Value | None) -> Value:
        """The residual stream after the layer. `extra`: the token's own inputs to all layers."""
        x = self._branch(x, self._attention, "attn_norm", "post_attention_norm", "attn_residual")
        ffn, out = self.layer.ffn, "residual" if extra is None else "ffn_residual"
        if isinstance(ffn, MoeSpec) and ffn.beside:
            x = self._add_two(out, x, ffn)
        elif isinstance(ffn, MoeSpec) and ffn.shared:
            x = self._branch(x, self._mlp, "ffn_norm", "post_ffw_norm", "experts_residual")
            x = self._add_shared(ffn, out, x)
        else:
            x = self._branch(x, self._mlp, "ffn_norm", "post_ffw_norm", out)
        if extra is not None:
            x = self._add_extra(x, extra)
        if self.layer.output_scale:
            total = self._value("scaled", x.width)
            self.ops.append(ScaleBy(total, x, self._weight("layer_output_scale.weight", 1, 1)))
            x = total
        return x

    def _branch(self, x: Value, body: Callable[[Value], Value], pre: str, post: str, out: str) -> Value:
        norms = self.layer.norms
        y = body(self._norm(pre, x) if norms != "post" else x)
        return self._add(out, x, self._norm(post, y) if norms != "pre" else y)

    def _add(self, name: str, x: Value, y: Value) -> Value:
        total = self._value(name, self.spec.hidden)
        self.ops.append(Add(total, x, y, self.spec.residual_scale))
        return total

    def _add_two(self, name: str, x: Value, m: MoeSpec) -> Value:
        """A dense network and experts, each between norms of its own, and a norm of their sum.

        The router reads the stream by a norm of its own.
        """
        h = self._norm("ffn_norm", x)
        gate, up = (self._linear(f"dense_{part}", f"ffn_{part}", h, m.beside, (), "") for part in ("gate", "up"))
        gated = self._value("dense_gated", m.beside)
        self.ops.append(Gated(gated, gate, up, m.activation))
        dense = self._linear("dense_down", "ffn_down", gated, x.width, (), "")
        by = self._value("router_norm", x.width)
        self.ops.append(RmsNorm(by, x, self._weight("ffn_gate_inp.scale", 1, x.width), self.spec.norm_eps))
        routed = self._experts(m, by, lambda: self._norm("pre_ffw_norm_2", x))
        both = self._value("both", x.width)
        self.ops.append(Add(both, self._norm("post_ffw_norm_1", dense), self._norm("post_ffw_norm_2", routed)))
        return self._add(name, x, self._norm("post_ffw_norm", both))

    def _add_extra(self, x: Value, extra: Value) -> Value:
        width = self.layer.extra
        gate = self._linear("inp_gate", "inp_gate", x, width, (), "")
        gated = self._value("inp_gated", width)
        self.ops.append(Gated(gated, gate, extra, self.layer.ffn.activation, width * self.index))
        y = self._norm("post_norm", self._linear("inp_proj", "proj", gated, x.width, (), ""))
        total = self._value("residual", x.width)
        self.ops.append(Add(total, x, y))
        return total

    def _attention(self, x: Value) -> Value:
        a = self.layer.mixer
        if a.latent:
            return self._latent_attention(x, a, a.latent)
        parts: list[tuple[Biased, int]] = [("q", a.heads)]
        if a.shares is None:
            parts += [("k", a.kv_heads)] if a.tied_values else [("k", a.kv_heads), ("v", a.kv_heads)]
        made: dict[str, Value] = {
            part: self._linear(part, f"attn_{part}", x, count * a.head_dim, a.biases, part) for part, count in parts
        }
        if a.tied_values:
            made["v"] = made["k"]
        turned = [part for part in made if part != "v"]
        if a.head_norms:
            made |= {
                part: self._head_norm(part, made[part], made[part].width if a.whole_norms else a.head_dim)
                for part in turned
            }
        if a.value_norms and a.shares is None:
            made["v"] = self._head_norm("v", made["v"], a.head_dim, weighted=False)
        rope = a.long_rope if a.long_rope and self.spec.context > self.spec.original_context else a.rope
        if rope:
            made |= {part: self._rope(part, made[part], a.head_dim, rope) for part in turned}
        out = self._value("attention", a.heads * a.head_dim)
        q, k, v = (made.get(part) for part in "qkv")
        assert q is not None
        layer = self.index if a.shares is None else a.shares
        sinks = self._weight("attn_sinks.weight", 1, a.heads) if a.sinks else None
        self.ops.append(
            Attention(out, q, k, v, layer, a.heads, a.kv_heads, a.head_dim, a.scale, a.window, a.softcap, sinks)
        )
        return self._linear("attn_output", "attn_output", out, self.spec.hidden, a.biases, "output")

    def _latent_attention(self, x: Value, a: AttentionSpec, latent: LatentSpec) -> Value:
        """With the matrices of keys and values absorbed: queries are compared with the latent, and sums are of it.

        What turns comes first in a head, so that it is the beginning of it as elsewhere.
        """
        heads, rank, rope = a.heads, latent.rank, a.rope
        assert rope is not None
        q = x
        if latent.q_rank:
            # Products that lie side by side are read together, so the other vector's are of a norm of their own.
            norm = self.ops[-1]
            assert isinstance(norm, RmsNorm)
            q = self._norm("attn_q_a_norm", self._linear("q_a", "attn_q_a", x, latent.q_rank, (), ""))
            x = self._value("attn_norm_kv", x.width)
            self.ops.append(RmsNorm(x, norm.x, norm.weight, norm.eps))
        q_nope = self._linear("q_nope", "attn_q_nope", q, heads * latent.nope, (), "")
        q_turned = self._linear("q_turned", "attn_q_rope", q, heads * latent.rope, (), "")
        compressed = self._linear("latent", "attn_kv_a_latent", x, rank, (), "")
        k_turned = self._linear("k_turned", "attn_kv_a_rope", x, latent.rope, (), "")
        absorbed = self._head_linear("absorbed", "attn_k_b", q_nope, heads, rank)
        joined_q, joined_k = (self._value(part, count * a.head_dim) for part, count in (("q", heads), ("k", 1)))
        self.ops.append(Join(joined_q, q_turned, absorbed, heads))
        normed = self._norm("attn_kv_a_norm", compressed)
        self.ops.append(Join(joined_k, k_turned, normed, 1))
        made = [self._rope(part, value, a.head_dim, rope) for part, value in (("q", joined_q), ("k", joined_k))]
        out = self._value("attention", heads * rank)
        self.ops.append(
            Attention(out, made[0], made[1], None, self.index, heads, 1, a.head_dim, a.scale, a.window, latent=rank)
        )
        values = self._head_linear("values", "attn_v_b", out, heads, latent.value_dim)
        return self._linear("attn_output", "attn_output", values, self.spec.hidden, a.biases, "output")

    def _mlp(self, x: Value) -> Value:
        m = self.layer.ffn
        if isinstance(m, MoeSpec):
            return self._experts(m, x, lambda: x)
        gate, up = (self._linear(part, f"ffn_{part}", x, m.width, m.biases, part) for part in ("gate", "up"))
        out = self._value("gated", m.width)
        self.ops.append(Gated(out, gate, up, m.activation))
        return self._linear("down", "ffn_down", out, self.spec.hidden, m.biases, "down")

    def _experts(self, m: MoeSpec, by: Value, vector: Callable[[], Value]) -> Value:
        """What the experts make of a vector together, which are chosen by `by`."""
        count = m.experts + m.shared_gate  # the shared expert's gate lies below the router
        logits = self._linear("router", "ffn_gate_inp", by, count, ("gate",) if m.biased else (), "gate")
        route = self._value("route", 2 * m.used)
        correction = self._weight("exp_probs_b.bias", 1, m.experts) if m.corrected else None
        scales = self._weight("ffn_down_exps.scale", 1, m.experts) if m.scaled else None
        groups, others = (m.groups, m.groups_used), count - m.experts
        self.ops.append(Route(route, logits, m.normalise, m.sigmoid, correction, *groups, m.scale, others, scales))
        x = vector()
        gate, up = (self._expert_linear(part, x, route, m.width, m) for part in ("gate", "up"))
        gated = self._value("gated", gate.width)
        self.ops.append(Gated(gated, gate, up, m.activation))
        if m.shared:
            self._shared_inner(m, x, logits)
        down = self._expert_linear("down", gated, route, self.spec.hidden, m)
        out = self._value("combined", self.spec.hidden)
        self.ops.append(Combine(out, down, route))
        return out

    def _shared_inner(self, m: MoeSpec, x: Value, logits: Value) -> None:
        gate, up = (self._linear(f"shared_{part}", f"ffn_{part}_shexp", x, m.shared, (), "") for part in ("gate", "up"))
        gated = self._value("shared_gated", m.shared)
        self.ops.append(Gated(gated, gate, up, m.activation))
        if m.shared_gate:
            self.ops.append(Weigh(self._value("shared_weighed", m.shared), gated, logits, m.experts))

    def _add_shared(self, m: MoeSpec, name: str, x: Value) -> Value:
        inner = self._value("shared_weighed" if m.shared_gate else "shared_gated", m.shared)
        return self._add(name, x, self._linear("shared_down", "ffn_down_shexp", inner, x.width, (), ""))

    def _expert_linear(self, part: str, x: Value, route: Value, width: int, m: MoeSpec) -> Value:
        """`width`: what one expert makes of its vector."""
        out = self._value(part, m.used * width)
        cols = m.width if part == "down" else x.width
        weight = Weight(f"blk.{self.index}.ffn_{part}_exps.weight", m.experts * width, cols, m.experts)
        bias = self._weight(f"ffn_{part}_exps.bias", 1, m.experts * width) if m.biased else None
        self.ops.append(ExpertLinear(out, x, route, weight, bias))
        return out

    def _value(self, name: str, width: int) -> Value:
        return Value(f"layers.{self.index}.{name}", width)

    def _weight(self, name: str, rows: int, cols: int) -> Weight:
        return Weight(f"blk.{self.index}.{name}", rows, cols)

    def _norm(self, name: str, x: Value) -> Value:
        out = self._value(name, x.width)
        self.ops.append(RmsNorm(out, x, self._weight(f"{name}.weight", 1, x.width), self.spec.norm_eps))
        return out

    def _head_norm(self, part: str, x: Value, head_dim: int, *, weighted: bool = True) -> Value:
        out = self._value(f"{part}_norm", x.width)
        weight = self._weight(f"attn_{part}_norm.weight", 1, head_dim) if weighted else None
        self.ops.append(HeadNorm(out, x, weight, head_dim, self.spec.norm_eps))
        return out

    def _rope(self, part: str, x: Value, head_dim: int, rope: RopeSpec) -> Value:
        out = self._value(f"{part}_rope", x.width)
        self.ops.append(Rope(out, x, head_dim, rope))
        return out

    def _head_linear(self, name: str, tensor: str, x: Value, heads: int, width: int) -> Value:
        out = self._value(name, heads * width)
        weight = self._weight(f"{tensor}.weight", heads * width, x.width // heads)
        self.ops.append(HeadLinear(out, x, weight, heads))
        return out

    def _linear(self, name: str, tensor: str, x: Value, width: int, biases: tuple[Biased, ...], part: str) -> Value:
        out = self._value(name, width)
        bias = self._weight(f"{tensor}.bias", 1, width) if part in biases else None
        self.ops.append(Linear(out, x, self._weight(f"{tensor}.weight", width, x.width), bias))
        return out
