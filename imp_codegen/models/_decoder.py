"""What the decoder-only architectures share of reading their numbers; their graph is in `_blocks.py`.

Keys and weights are called as the GGUF specification calls them (ggml/docs/gguf.md): `<arch>.block_count`,
`blk.<n>.attn_q.weight`, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.models._config import config_activation, config_biases, config_windows
from imp_codegen.models._experts import Experts, read_experts
from imp_codegen.models._pooling import read_pooling
from imp_codegen.models._rope import MAX_SCALE, read_rope
from imp_codegen.spec import (
    Activation,
    AttentionSpec,
    Biased,
    GatedMlpSpec,
    LayerSpec,
    ModelSpec,
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
