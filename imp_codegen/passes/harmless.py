"""What a checkpoint may say though nobody reads it: keys at values that change nothing, and tensors of other uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from imp_codegen.spec import ModelSpec, MoeSpec

Harmless = Callable[[object, ModelSpec], bool]
"""Whether a value changes nothing in a model."""

Rule = tuple[Harmless, str]
"""And what is expected, in words."""


def _one_of(*values: object) -> Harmless:
    return lambda value, _: any(type(value) is type(v) and value == v for v in (*values, *map(_as_float, values)))


def _as_float(value: object) -> object:
    return float(value) if type(value) is int else value


def _anything(value: object, spec: ModelSpec) -> bool:
    return True


def _nothing(value: object, spec: ModelSpec) -> bool:
    return False


def _dense(value: object, spec: ModelSpec) -> bool:
    return not any(isinstance(layer.ffn, MoeSpec) for layer in spec.layers)


_OF_EXPERTS = (_dense, "nothing beside experts")
_OFF = (_one_of(0), "0")
_NEUTRAL = (_one_of(0, 1), "1")
_ONE = (_one_of(1), "1")
_FALSE = (_one_of(False), "false")

# The values at which a key that imp does not read changes nothing: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
KEYS: Mapping[str, Rule] = {
    "attention.causal": (_one_of(True), "true"),
    "attention.clamp_kqv": _OFF,
    "attention.max_alibi_bias": _OFF,
    "attention.shared_kv_layers": _OFF,
    "attention.sliding_window_pattern": (
        lambda value, spec: not any(layer.mixer.window for layer in spec.layers),
        "nothing beside a window that all layers have",
    ),
    "attn_logit_softcapping": _OFF,
    "final_logit_softcapping": _OFF,
    "router_logit_softcapping": _OFF,
    "embedding_length_per_layer_input": _OFF,
    "embedding_scale": _NEUTRAL,
    "logit_scale": _NEUTRAL,
    "residual_scale": _NEUTRAL,
    # Of experts, of which there are none.
    **{
        f"expert_{name}": _OF_EXPERTS
        for name in (
            "used_count",
            "shared_count",
            "feed_forward_length",
            "shared_feed_forward_length",
            "weights_scale",
            "weights_norm",
            "gating_func",
        )
    },
    "leading_dense_block_count": _OFF,
    "nextn_predict_layers": _OFF,
    # Of YaRN, where rope.scaling.type does not name it.
    "rope.scaling.finetuned": (_anything, ""),
    "rope.scaling.original_context_length": (_anything, ""),
    "rope.scaling.yarn_beta_fast": (_anything, ""),
    "rope.scaling.yarn_beta_slow": (_anything, ""),
    "rope.scaling.yarn_log_multiplier": _OFF,
    "rope.scaling.yarn_ext_factor": _OFF,
    "rope.scaling.attn_factor": _ONE,
    "rope.scaling.yarn_attn_factor": _ONE,
    "swin_norm": _FALSE,
    "tensor_data_layout": (_anything, ""),  # what the converter did; the names of the tensors say it too
    "use_parallel_residual": _FALSE,
    "vocab_size": (lambda value, spec: value == spec.vocab, "the number of rows of token_embd.weight"),
}
OTHERS: Mapping[str, Rule] = {
    "general.quantization_version": (_one_of(2), "2"),
    "tokenizer.ggml.add_sep_token": _FALSE,
    "tokenizer.ggml.precompiled_charsmap": (_nothing, "nothing"),
    "tokenizer.ggml.remove_extra_whitespaces": _FALSE,
    "tokenizer.ggml.suppress_tokens": (_nothing, "nothing"),
}
# Names of tokens, and what one family of tokenizers reads and another does not need.
TOKENIZER = re.compile(
    r"tokenizer\.ggml\.(\w+_token_ids?|token_type_count|pre|scores|merges|add_space_prefix)", re.ASCII
)

# Fields of config.json that say how a model was made, trained, loaded or sampled from, with all that is in them. What
# ends a reply is the tokenizer's to read.
HARMLESS_FIELDS = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_name_or_path",
    "attention_dropout", "attn_implementation", "attn_pdrop", "auto_map", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "classifier_dropout", "do_sample", "dtype", "embd_pdrop", "eos_token_id",
    "finetuning_task", "gradient_checkpointing", "hidden_dropout", "id2label", "initializer_range", "label2id",
    "max_length", "max_window_layers", "min_length", "model_type", "num_beams", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "pretraining_tp", "problem_type", "pruned_heads",
    "repetition_penalty", "resid_pdrop", "residual_dropout", "return_dict", "return_dict_in_generate", "sep_token_id",
    "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16",
    "use_cache",
    # Of the training of experts.
    "aux_loss_alpha", "ep_size", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "seq_aux",
    # Of images and sound beside text.
    "audio_token_id", "boa_token_id", "boi_token_id", "boi_token_index", "eoa_token_id", "eoi_token_id",
    "eoi_token_index", "image_token_id", "image_token_index", "mm_tokens_per_image", "video_token_id",
    "vision_end_token_id", "vision_start_token_id", "vision_token_id",
))  # fmt: skip
FIELDS: Mapping[str, Rule] = {
    "add_cross_attention": _FALSE,
    "attention_bias": _FALSE,
    "attn_logit_softcapping": _OFF,
    "embedding_multiplier": _ONE,
    "final_logit_softcapping": _OFF,
    "enable_moe_block": _FALSE,
    "is_decoder": (_one_of(False, True), "true or false"),
    "is_encoder_decoder": _FALSE,
    "logits_scaling": _ONE,
    "mlp_bias": _FALSE,
    "qkv_bias": (_one_of(True), "true"),  # of an architecture that has these biases
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "norm_topk_prob",
            "num_experts_per_tok",
            "shared_expert_intermediate_size",
            "top_k_experts",
        ),
        _OF_EXPERTS,
    ),
    "num_nextn_predict_layers": (_anything, ""),  # whose tensors are left out
    "residual_multiplier": _ONE,
    "tie_encoder_decoder": _FALSE,
    "use_bidirectional_attention": (_one_of(False, "vision"), "false, or vision, which is of images"),
    "use_sliding_window": _FALSE,
}
# Tensors that transformers computes itself.
NO_WEIGHTS = re.compile(r"\.rotary_emb\.inv_freq$")
# Parts of a model that are not its text: images, sound, and heads that draft.
OTHER_PARTS = re.compile(
    r"(?:model\.)?(visual|vision_tower|vision_model|vision_embed_tokens|audio_tower|multi_modal_projector|embed_vision|"
    r"embed_audio|mtp)\."
)
