"""The keys of a GGUF file of random weights (random_gguf.py): the numbers of a model, as llama.cpp asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import ExpertGatingFuncType, GGUFWriter, RopeScalingType

from imp_codegen.spec import AttentionSpec, GatedMlpSpec, LatentSpec, ModelSpec, MoeSpec
from imp_runtime.errors import ImpError

_LOG_MULTIPLIER = 0.1  # by which llama.cpp's converter multiplies what DeepSeek calls mscale_all_dim


def write_keys(writer: GGUFWriter, spec: ModelSpec, config: Mapping[str, Any], shape: Path) -> np.ndarray:
    """All keys of `spec`, whose config.json `shape` holds `config`; factors of its rotary embedding that no key says.

    ImpError for a model that this cannot write.
    """
    # Of a model with windows, a layer without one says the most.
    attention = next((layer.mixer for layer in spec.layers if not layer.mixer.window), spec.layers[0].mixer)
    windowed = next((layer.mixer for layer in spec.layers if layer.mixer.window), None)
    mixture = next((layer.ffn for layer in spec.layers if isinstance(layer.ffn, MoeSpec)), None)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(spec.vocab)
    writer.add_block_count(len(spec.layers))
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(_width(spec.layers[0].ffn))
    writer.add_head_count(attention.heads)
    if spec.architecture != "gemma4":
        writer.add_head_count_kv(attention.kv_heads)
    writer.add_key_length(attention.head_dim)
    writer.add_value_length(attention.latent.rank if attention.latent else attention.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    if mixture is not None:
        _mixture(writer, spec, mixture, shape)
    if attention.latent is not None:
        _latent(writer, attention.latent)
    if spec.architecture == "gemma4":
        _two_kinds(writer, spec, shape)
    if windowed is not None:
        writer.add_sliding_window(windowed.window)
        if windowed.rope is not None and attention.rope is not None and windowed.rope.theta != attention.rope.theta:
            writer.add_float32(f"{spec.architecture}.rope.freq_base_swa", windowed.rope.theta)
    return _rope(writer, attention, config.get("rope_scaling") or {}, shape)


def _width(ffn: GatedMlpSpec | MoeSpec) -> int:
    """That of a dense network, where there is one."""
    return ffn.width if isinstance(ffn, GatedMlpSpec) else ffn.beside or ffn.width


def _two_kinds(writer: GGUFWriter, spec: ModelSpec, shape: Path) -> None:
    """Gemma 4's layers that see a window, beside those that see all, which the usual keys are of."""
    mixers = [layer.mixer for layer in spec.layers]
    near = next((mixer for mixer in mixers if mixer.window), None)
    if near is None or any(mixer.shares is not None for mixer in mixers) or spec.layers[0].extra:
        raise ImpError(f"{shape}: of Gemma 4 this tool writes models with windows, without shared caches and inputs")
    writer.add_head_count_kv([mixer.kv_heads for mixer in mixers])
    writer.add_sliding_window_pattern([mixer.window > 0 for mixer in mixers])
    for key in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        writer.add_uint32(f"gemma4.{key}", near.head_dim)
    writer.add_final_logit_softcapping(spec.logit_softcap)


def _mixture(writer: GGUFWriter, spec: ModelSpec, mixture: MoeSpec, shape: Path) -> None:
    deepseek = spec.architecture == "deepseek2"
    if spec.architecture not in ("deepseek2", "gemma4", "gpt-oss", "llama", "qwen3moe"):
        raise ImpError(
            f"{shape}: of mixtures of experts this tool writes those of DeepSeek, Gemma 4, gpt-oss, Mixtral and Qwen3"
        )
    writer.add_expert_count(mixture.experts)
    writer.add_expert_used_count(mixture.used)
    if spec.architecture != "llama":
        writer.add_expert_feed_forward_length(mixture.width)
    if deepseek:
        writer.add_leading_dense_block_count(sum(not isinstance(layer.ffn, MoeSpec) for layer in spec.layers))
        writer.add_expert_shared_count(mixture.shared // mixture.width)
        writer.add_expert_weights_scale(mixture.scale)
        writer.add_expert_weights_norm(mixture.normalise)
        kind = ExpertGatingFuncType.SIGMOID if mixture.sigmoid else ExpertGatingFuncType.SOFTMAX
        writer.add_expert_gating_func(kind)


def _latent(writer: GGUFWriter, latent: LatentSpec) -> None:
    if latent.q_rank:
        writer.add_q_lora_rank(latent.q_rank)
    writer.add_kv_lora_rank(latent.rank)
    writer.add_key_length_mla(latent.nope + latent.rope)
    writer.add_value_length_mla(latent.value_dim)


def _rope(writer: GGUFWriter, attention: AttentionSpec, scaling: Mapping[str, Any], shape: Path) -> np.ndarray:
    """What turns; the factors that no key says."""
    rope = attention.rope
    if rope is None:
        raise ImpError(f"{shape}: this tool writes no models without a rotary embedding")
    writer.add_rope_freq_base(rope.theta)
    writer.add_rope_dimension_count(rope.dim)
    factors = np.array(rope.factors, np.float32)
    if scaling.get("rope_type", scaling.get("type")) == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "mscale_all_dim" in scaling:
            writer.add_rope_scaling_yarn_log_mul(_LOG_MULTIPLIER * scaling["mscale_all_dim"])
    elif factors.size and (factors == factors[0]).all():
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(factors[0]))
    elif rope.magnitude != 1:
        raise ImpError(f"{shape}: of rotary embeddings with another magnitude this tool writes YaRN's")
    else:
        return factors
    return factors[:0]
