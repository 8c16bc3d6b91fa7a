"""What the dense decoder-only architectures share: reading their numbers from GGUF metadata, and their graph.

GGUF keys and tensor names are those of the GGUF specification (ggml/docs/gguf.md): `<arch>.block_count`,
`blk.<n>.attn_q.weight`, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.graph import Graph, Op, Value, Weight
from imp_codegen.ops import Add, Attention, Embed, Gated, HeadNorm, Linear, RmsNorm, Rope, Sample
from imp_codegen.rope import RopeSpec
from imp_codegen.spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec
from imp_runtime.plan import Pooling
from imp_runtime.text import plain_name

MAX_CONTEXT = 1 << 22
MAX_WIDTH = 1 << 20
MAX_SCALE = 1e12  # of factors and frequencies: their products stay within float32
ROPE_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Variant:
    """How an architecture differs from its siblings."""

    interleaved_rope: bool
    qk_norm: bool


def read_decoder(checkpoint: Checkpoint, architecture: str, variant: Variant) -> ModelSpec:
    """The spec of a dense decoder. CheckpointError names the key or tensor that is missing, odd or unsupported."""
    meta = checkpoint.metadata
    if experts := meta.integer(f"{architecture}.expert_count", 0):
        raise CheckpointError(
            f"{checkpoint.path}: is a mixture of experts ({architecture}.expert_count is {experts}), which imp does "
            "not compile yet; choose a dense model"
        )
    layers = meta.integer(f"{architecture}.block_count", minimum=1, maximum=1024)

    def number(key: str, maximum: int, default: int | None = None) -> int:
        return meta.integer_of_layers(f"{architecture}.{key}", layers, default, minimum=1, maximum=maximum)

    hidden = number("embedding_length", MAX_WIDTH)
    heads = number("attention.head_count", 4096)
    kv_heads = number("attention.head_count_kv", 4096, default=heads)
    head_dim = number("attention.key_length", 4096, default=max(hidden // heads, 1))
    value_dim = number("attention.value_length", 4096, default=head_dim)
    if heads % kv_heads:
        raise CheckpointError(
            f"{checkpoint.path}: {architecture}.attention.head_count {heads} is not a multiple of "
            f"head_count_kv {kv_heads}"
        )
    if value_dim != head_dim:
        raise CheckpointError(
            f"{checkpoint.path}: attention.value_length {value_dim} differs from key_length {head_dim}, "
            "which is unsupported"
        )
    if head_dim % 16 or head_dim > 128:
        raise CheckpointError(
            f"{checkpoint.path}: attention.key_length {head_dim} is unsupported; "
            "supported are heads of 16 to 128 elements, a multiple of 16"
        )
    has = checkpoint.tensors.__contains__
    rope = _read_rope(checkpoint, architecture, head_dim, variant.interleaved_rope)
    # 0 is llama.cpp's word for the usual one.
    scale = meta.number(f"{architecture}.attention.scale", 0.0, minimum=0, maximum=MAX_SCALE) or 1.0 / head_dim**0.5
    mlp = MlpSpec(number("feed_forward_length", MAX_WIDTH))

    def layer(index: int) -> LayerSpec:
        block = f"blk.{index}"
        attention = AttentionSpec(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=scale,
            rope=rope,
            qk_norm=variant.qk_norm,
            bias=all(has(f"{block}.attn_{part}.bias") for part in "qkv"),
            output_bias=has(f"{block}.attn_output.bias"),
        )
        return LayerSpec(attention, mlp)

    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{checkpoint.path}: has no two-dimensional tensor 'token_embd.weight'")
    return ModelSpec(
        name=plain_name(meta.string("general.name", default=checkpoint.path.stem)) or architecture,
        architecture=architecture,
        vocab=embedding.shape[0],
        hidden=hidden,
        context=meta.integer(f"{architecture}.context_length", minimum=2, maximum=MAX_CONTEXT),
        norm_eps=meta.number(f"{architecture}.attention.layer_norm_rms_epsilon", minimum=0, maximum=1),
        tied_embeddings=not has("output.weight"),
        pooling=_read_pooling(checkpoint, architecture),
        layers=tuple(map(layer, range(layers))),
    )


def _read_pooling(checkpoint: Checkpoint, architecture: str) -> Pooling:
    """By the numbers of llama.cpp (include/llama.h, llama_pooling_type); the mean where the file says nothing."""
    key = f"{architecture}.pooling_type"
    kinds: tuple[Pooling, ...] = ("none", "mean", "cls", "last")
    number = checkpoint.metadata.integer(key, 1)
    if number >= len(kinds):
        raise checkpoint.metadata.wrong(key, "0 (none), 1 (mean), 2 (cls) or 3 (last)")
    return kinds[number]


def _read_rope(checkpoint: Checkpoint, architecture: str, head_dim: int, interleaved: bool) -> RopeSpec:
    meta = checkpoint.metadata
    dim = meta.integer(f"{architecture}.rope.dimension_count", default=head_dim, minimum=1, maximum=4096)
    if dim != head_dim:
        raise CheckpointError(
            f"{checkpoint.path}: {architecture}.rope.dimension_count {dim} differs from the head's "
            f"{head_dim} elements, which is unsupported"
        )
    theta = meta.number(f"{architecture}.rope.freq_base", default=10000.0, minimum=1e-3, maximum=MAX_SCALE)
    # As llama.cpp has it: a factor without a type is linear, and the old key stands in for the new one.
    scaling = meta.string(f"{architecture}.rope.scaling.type", default="linear")
    old = meta.number(f"{architecture}.rope.scale_linear", 1.0, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    linear = meta.number(f"{architecture}.rope.scaling.factor", old, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    if scaling not in ("none", "linear"):
        raise meta.wrong(
            f"{architecture}.rope.scaling.type", f"none or linear (llama-3 scales by the tensor {ROPE_FREQUENCIES})"
        )
    factor = linear if scaling == "linear" else 1.0
    divisors = np.full(dim // 2, factor) * _rope_divisors(checkpoint, dim // 2)
    factors = () if (divisors == 1).all() else tuple(divisors.tolist())
    return RopeSpec(dim=dim, theta=theta, interleaved=interleaved, factors=factors)


def _rope_divisors(checkpoint: Checkpoint, pairs: int) -> NDArray[np.float64]:
    """By how much each pair turns slower than its index says: all 1 where the file has no such tensor."""
    tensor = checkpoint.tensors.get(ROPE_FREQUENCIES)
    if tensor is None:
        return np.ones(pairs)
    if tensor.format != "F32" or tensor.shape != (pairs,):
        raise CheckpointError(f"{checkpoint.path}: {ROPE_FREQUENCIES} must hold {pairs} F32 numbers")
    divisors = np.ascontiguousarray(checkpoint.rows(ROPE_FREQUENCIES, 0, 1)).view("<f4").reshape(-1)
    odd = np.flatnonzero(~((divisors >= 1 / MAX_SCALE) & (divisors <= MAX_SCALE)))
    if odd.size:
        raise CheckpointError(
            f"{checkpoint.path}: {ROPE_FREQUENCIES}[{odd[0]}] is {divisors[odd[0]]}, expected a positive number"
        )
    return divisors.astype(np.float64)


def build_decoder(spec: ModelSpec) -> Graph:
    """The graph of one step, from token ids to the next token."""
    hidden = spec.hidden
    embedding = Weight("token_embd.weight", spec.vocab, hidden)
    x = Value("embed", hidden)
    ops: list[Op] = [Embed(x, embedding)]
    for index, layer in enumerate(spec.layers):
        x = _attention_block(ops, x, spec, layer.attention, index)
        x = _mlp_block(ops, x, spec, layer.mlp, index)
    normed = Value("output_norm", hidden)
    ops.append(RmsNorm(normed, x, Weight("output_norm.weight", 1, hidden), spec.norm_eps))
    logits = Value("logits", spec.vocab)
    head = embedding if spec.tied_embeddings else Weight("output.weight", spec.vocab, hidden)
    ops += [Linear(logits, normed, head), Sample(Value("token", 1), logits)]
    return Graph(tuple(ops))


def _attention_block(ops: list[Op], x: Value, spec: ModelSpec, a: AttentionSpec, index: int) -> Value:
    layer, source = f"layers.{index}", f"blk.{index}"
    normed = Value(f"{layer}.attn_norm", spec.hidden)
    ops.append(RmsNorm(normed, x, Weight(f"{source}.attn_norm.weight", 1, spec.hidden), spec.norm_eps))
    parts: dict[str, Value] = {}
    for part, count in (("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads)):
        width = count * a.head_dim
        bias = Weight(f"{source}.attn_{part}.bias", 1, width) if a.bias else None
        parts[part] = Value(f"{layer}.{part}", width)
        ops.append(Linear(parts[part], normed, Weight(f"{source}.attn_{part}.weight", width, spec.hidden), bias))
    for part in ("q", "k"):
        if a.qk_norm:
            weight = Weight(f"{source}.attn_{part}_norm.weight", 1, a.head_dim)
            out = Value(f"{layer}.{part}_norm", parts[part].width)
            ops.append(HeadNorm(out, parts[part], weight, a.head_dim, spec.norm_eps))
            parts[part] = out
    for part in ("q", "k"):
        out = Value(f"{layer}.{part}_rope", parts[part].width)
        ops.append(Rope(out, parts[part], a.head_dim, a.rope))
        parts[part] = out
    attended = Value(f"{layer}.attention", a.heads * a.head_dim)
    ops.append(Attention(attended, parts["q"], parts["k"], parts["v"], index, a.heads, a.kv_heads, a.head_dim, a.scale))
    projected = Value(f"{layer}.attn_output", spec.hidden)
    bias = Weight(f"{source}.attn_output.bias", 1, spec.hidden) if a.output_bias else None
    ops.append(Linear(projected, attended, Weight(f"{source}.attn_output.weight", spec.hidden, attended.width), bias))
    out = Value(f"{layer}.attn_residual", spec.hidden)
    ops.append(Add(out, x, projected))
    return out


def _mlp_block(ops: list[Op], x: Value, spec: ModelSpec, mlp: MlpSpec, index: int) -> Value:
    layer, source = f"layers.{index}", f"blk.{index}"
    normed = Value(f"{layer}.ffn_norm", spec.hidden)
    gate, up = Value(f"{layer}.gate", mlp.width), Value(f"{layer}.up", mlp.width)
    gated, down = Value(f"{layer}.gated", mlp.width), Value(f"{layer}.down", spec.hidden)
    out = Value(f"{layer}.residual", spec.hidden)
    ops += [
        RmsNorm(normed, x, Weight(f"{source}.ffn_norm.weight", 1, spec.hidden), spec.norm_eps),
        Linear(gate, normed, Weight(f"{source}.ffn_gate.weight", mlp.width, spec.hidden)),
        Linear(up, normed, Weight(f"{source}.ffn_up.weight", mlp.width, spec.hidden)),
        Gated(gated, gate, up),
        Linear(down, gated, Weight(f"{source}.ffn_down.weight", spec.hidden, mlp.width)),
        Add(out, x, down),
    ]
    return out
