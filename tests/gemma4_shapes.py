"""Gemma 4 in its published shapes, dense, as configs: heads of 256 and of 512, of either 6 or 5 layers one sees all."""

from __future__ import annotations

from typing import Any

_ROPES = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def _config(period: int, layers: int, **fields: Any) -> dict[str, Any]:
    kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
    return {
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": layers,
        "layer_types": kinds,
        "head_dim": 256,
        "global_head_dim": 512,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _ROPES,
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
        **fields,
    }


def e2b(layers: int = 35, shared: int = 20, vocab: int = 262144) -> dict[str, Any]:
    """One KV head, an input of the token's own to every layer; the last `shared` read other layers' caches."""
    return _config(
        5,
        layers,
        hidden_size=1536,
        intermediate_size=6144,
        num_attention_heads=8,
        num_key_value_heads=1,
        num_kv_shared_layers=shared,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=256,
        sliding_window=512,
        vocab_size=vocab,
        vocab_size_per_layer_input=vocab,
    )


def large(layers: int = 60, vocab: int = 262144) -> dict[str, Any]:
    """Of 31 billion parameters: layers that see all have four KV heads for sixteen, whose values are their keys."""
    return _config(
        6,
        layers,
        hidden_size=5376,
        intermediate_size=21504,
        num_attention_heads=32,
        num_key_value_heads=16,
        num_global_key_value_heads=4,
        attention_k_eq_v=True,
        sliding_window=1024,
        vocab_size=vocab,
    )
