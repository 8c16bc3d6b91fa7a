"""The graph of decoder-only architectures: from token ids through a block a layer to the next token.

Weights are called as the GGUF specification calls them (ggml/docs/gguf.md): `blk.<n>.attn_q.weight`, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imp_codegen.graph import Graph, Op, Value, Weight
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
from imp_codegen.spec import AttentionSpec, Biased, LatentSpec, LayerSpec, ModelSpec, MoeSpec


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
