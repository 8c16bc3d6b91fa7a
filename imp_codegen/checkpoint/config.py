"""config.json of a Hugging Face model as keys and values, under the names that GGUF files have for them.

transformers 4 wrote `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`; in models of text and images the text
model's numbers lie in `text_config`. Where a file says a thing in two spellings, both must say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imp_codegen.checkpoint.contract import CheckpointError
from imp_codegen.checkpoint.json_text import keys_and_values, parse_object, read_file
from imp_codegen.checkpoint.metadata import Metadata

CONFIG = "config.json"
_PARTS = ("vision_config", "audio_config")  # of models that take more than text; text_config is the part that is read


def _rope(*names: str, group: str = "") -> tuple[str, ...]:
    """The spellings of a field of the rotary embedding; `group`: of one kind of layers, where there are several."""
    groups = (f"rope_parameters.{group}",) if group else ()
    return tuple(f"{each}.{name}" for each in (*groups, "rope_parameters", "rope_scaling") for name in names)


# GGUF's name without the architecture (ggml/docs/gguf.md), and those in config.json (transformers, configuration_*.py).
KEYS: Mapping[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size",),
    "vocab_size": ("vocab_size",),
    "activation": ("hidden_activation", "hidden_act"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "attention.sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern"),
    "attention.q_lora_rank": ("q_lora_rank",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "attention.key_length_mla": ("qk_head_dim",),
    "attention.value_length_mla": ("v_head_dim",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logits_scaling",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("experts_per_token", "top_k_experts", "num_experts_per_tok"),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
    "rope.freq_base": (*_rope("rope_theta", group="full_attention"), "rope_theta"),
    "rope.freq_base_swa": ("rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq"),
    "rope.partial_factor": (*_rope("partial_rotary_factor", group="full_attention"), "partial_rotary_factor"),
    "rope.scaling.type": _rope("rope_type", "type", group="full_attention"),
    "rope.scaling.factor": _rope("factor", group="full_attention"),
    "rope.scaling.original_context_length": (
        "initial_context_length",
        *_rope("original_max_position_embeddings", group="full_attention"),
        "original_max_position_embeddings",
    ),
    "rope.scaling.low_freq_factor": _rope("low_freq_factor"),
    "rope.scaling.high_freq_factor": _rope("high_freq_factor"),
    "rope.scaling.yarn_beta_fast": _rope("beta_fast"),
    "rope.scaling.yarn_beta_slow": _rope("beta_slow"),
    "rope.scaling.attn_factor": _rope("attention_factor"),
    "rope.scaling.mscale": _rope("mscale"),
    "rope.scaling.mscale_all_dim": _rope("mscale_all_dim"),
    "rope.scaling.truncate": _rope("truncate"),
    "rope.scaling.short_factors": _rope("short_factor"),
    "rope.scaling.long_factors": _rope("long_factor"),
    "rope.scaling_swa.type": ("rope_parameters.sliding_attention.rope_type",),
}


def read_config(path: Path) -> Metadata:
    """The keys and values of config.json at `path`, objects in it as `outer.inner`. CheckpointError if it is none."""
    raw = read_file(path)
    if raw is None:
        raise CheckpointError(f"{path}: does not exist; imp reads GGUF files, and folders with config.json")
    config = parse_object(raw, f"{path}: the file")
    text = config.pop("text_config", None)
    if isinstance(text, dict):
        config = {key: value for key, value in config.items() if key not in _PARTS} | text
    elif text is not None:
        raise CheckpointError(f"{path}: text_config is not an object")
    return Metadata(path, keys_and_values(config, path), KEYS)
