"""Models with latent attention that need no file: their config.json."""

from __future__ import annotations

from typing import Any

# Of both classes: queries with a latent and without, heads and parts of them of odd sizes, groups of experts.
V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 16,
    "q_lora_rank": 96,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 36,
    "n_group": 6,
    "topk_group": 2,
    "num_experts_per_tok": 5,
    "n_shared_experts": 2,
    "moe_intermediate_size": 64,
}
LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "first_k_dense_replace": 2,
    "num_experts_per_tok": 2,
}
