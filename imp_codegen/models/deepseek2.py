"""DeepSeek V2 and V3, and GLM-4.7-Flash (GGUF `deepseek2`): attention over a latent of all heads' keys and values.

A head's queries have a part that is compared with the latent and a part that turns, which is compared with one key of
all heads. Pairs that turn are neighbours. Behind the first layers, which are dense, all tokens go to shared experts,
too; V3 chooses the others by sigmoids and corrections. Sources: transformers, models/deepseek_v2, deepseek_v3 and
glm4_moe_lite; https://github.com/ggml-org/llama.cpp, conversion of deepseek2.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Dialect, Metadata
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import MAX_WIDTH, Variant, read_decoder
from imp_codegen.models._experts import Experts, experts_source
from imp_codegen.models._rope import MAX_SCALE, read_rope
from imp_codegen.models._source import LAYER, usual
from imp_codegen.sources import HeadColumns, HeadRows, Rows, Source, Tensor, Unstacked
from imp_codegen.spec import AttentionSpec, LatentSpec, ModelSpec, MoeSpec

_BOTH = {
    "hidden_act": "silu",
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters.rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
}
CLASSES = {
    "DeepseekV2ForCausalLM": _BOTH
    | {
        "first_k_dense_replace": 0,
        "max_position_embeddings": 2048,
        "moe_intermediate_size": 1407,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_method": "greedy",
    },
    "DeepseekV3ForCausalLM": _BOTH
    | {
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
    },
    "Glm4MoeLiteForCausalLM": _BOTH
    | {
        "first_k_dense_replace": 1,
        "max_position_embeddings": 202752,
        "moe_intermediate_size": 1536,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 4,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "rms_norm_eps": 1e-5,
        "routed_scaling_factor": 1.8,
        "scoring_func": "sigmoid",
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": 256,
    },
}
_MODULES = LAYER | {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "ffn_gate_inp": "mlp.gate",
    **{f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}
_PARTS = {part: f"{part}_proj" for part in ("gate", "up", "down")}
_CORRECTION = re.compile(r"blk\.(\d+)\.exp_probs_b\.bias", re.ASCII)
# Of experts chosen from groups; each is as its class has it.
_METHODS = {"greedy": "softmax", "group_limited_greedy": "softmax", "noaux_tc": "sigmoid"}
MAX_GROUPS = 32
_SOFTMAX, _SIGMOID = 1, 2  # llama.cpp, llama_expert_gating_func_type; 0: as usual
_PART = re.compile(r"(blk\.(\d+))\.attn_(q_nope|q_rope|kv_a_latent|kv_a_rope|k_b|v_b)\.weight", re.ASCII)
# llama.cpp's converter writes the key times this.
_LOG_MULTIPLIER = 0.1


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; of the queries, the latent, and the matrices of keys and values, rows of the tensors that hold them."""
    found = _PART.fullmatch(weight)
    if found is None:
        corrections = _CORRECTION.fullmatch(weight)
        if dialect == "hf" and corrections:
            return Tensor(f"model.layers.{corrections[1]}.mlp.gate.e_score_correction_bias")
        experts = experts_source(weight, spec, dialect, "mlp.experts", _PARTS)
        return experts or usual(weight, dialect, _MODULES)
    mixer = spec.layers[int(found[2])].mixer
    heads, latent = mixer.heads, mixer.latent
    assert latent is not None

    def tensor(name: str) -> Source:
        return usual(f"{found[1]}.{name}.weight", dialect, _MODULES)

    queries = tensor("attn_q_b" if latent.q_rank else "attn_q")
    nope, rank = latent.nope, latent.rank
    match found[3]:
        case "q_nope":
            return HeadRows(queries, heads, 0, nope)
        case "q_rope":
            return HeadRows(queries, heads, nope, nope + latent.rope)
        case "kv_a_latent":
            return Rows(tensor("attn_kv_a_mqa"), 0, rank)
        case "kv_a_rope":
            return Rows(tensor("attn_kv_a_mqa"), rank, rank + latent.rope)
    if not latent.joined:
        return Unstacked(tensor(f"attn_{found[3]}"))
    both = tensor("attn_kv_b")
    if found[3] == "k_b":
        return HeadColumns(HeadRows(both, heads, 0, nope), heads)
    return HeadRows(both, heads, nope, nope + latent.value_dim)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    experts = Experts(normalise=False, read_router=_read_router, leading=True)
    return read_decoder(checkpoint, "deepseek2", Variant(read_attention=_read_attention, experts=experts))


def _read_router(checkpoint: Checkpoint, moe: MoeSpec) -> MoeSpec:
    """How experts are chosen, and the shared ones."""
    meta = checkpoint.metadata

    def number(name: str, default: int, minimum: int = 1) -> int:
        return meta.integer(f"deepseek2.expert_{name}", default, minimum=minimum, maximum=moe.experts)

    groups, groups_used = number("group_count", 1, 0) or 1, number("group_used_count", 1, 0) or 1
    if checkpoint.dialect == "hf":
        sigmoid = _read_method(meta)
        if meta.string("topk_method") == "greedy":
            groups = groups_used = 1
        corrected = sigmoid
        if moe.normalise and not sigmoid:  # transformers leaves that out, the model's own code does not
            raise meta.wrong("norm_topk_prob", "false")
    else:
        function = meta.integer("deepseek2.expert_gating_func", _SOFTMAX)
        if function not in (0, _SOFTMAX, _SIGMOID):
            raise meta.wrong("deepseek2.expert_gating_func", f"{_SOFTMAX}, softmax, or {_SIGMOID}, sigmoid")
        sigmoid = function == _SIGMOID
        corrected = any(_CORRECTION.fullmatch(name) for name in checkpoint.tensors)
        if corrected and not sigmoid:
            raise meta.wrong("deepseek2.expert_gating_func", f"{_SIGMOID}, as routers with corrections have")
    if moe.experts % groups:
        raise meta.wrong("deepseek2.expert_group_count", f"a divisor of the number of experts ({moe.experts})")
    if groups > 1 and sigmoid and groups == moe.experts:
        raise meta.wrong("deepseek2.expert_group_count", "groups of two experts or more, as their best two count")
    if groups > MAX_GROUPS:
        raise meta.wrong("deepseek2.expert_group_count", f"at most {MAX_GROUPS}")
    if not moe.used <= groups_used * (moe.experts // groups) <= moe.experts:
        raise meta.wrong(
            "deepseek2.expert_group_used_count",
            f"at most {groups}, whose experts are as many as a token's ({moe.used})",
        )
    scale = meta.number("deepseek2.expert_weights_scale", 1.0, minimum=0, maximum=MAX_SCALE) or 1.0
    shared = number("shared_count", 0, 0) * moe.width
    return replace(
        moe, sigmoid=sigmoid, corrected=corrected, groups=groups, groups_used=groups_used, scale=scale, shared=shared
    )


def _read_method(meta: Metadata) -> bool:
    """Whether a folder's experts are chosen by sigmoids. Classes of transformers have one way each."""
    if meta.integer("moe_layer_freq", 1) != 1:
        raise meta.wrong("moe_layer_freq", "1: imp does not compile dense layers between mixtures")
    if "mlp_layer_types" in meta:
        dense, kinds = meta.integer("first_k_dense_replace"), meta.strings("mlp_layer_types")
        if kinds != ["dense"] * dense + ["sparse"] * (len(kinds) - dense):
            raise meta.wrong("mlp_layer_types", f"{dense} dense layers and sparse ones behind them")
    usual_score, usual_method = meta.string("scoring_func"), meta.string("topk_method")
    score = "softmax" if "DeepseekV2ForCausalLM" in meta.strings("architectures") else "sigmoid"
    if usual_score != score:
        raise meta.wrong("scoring_func", f"{score}, as its class has it")
    if _METHODS.get(usual_method) != score:
        known = " or ".join(name for name, of in _METHODS.items() if of == score)
        raise meta.wrong("topk_method", f"{known}, as its class has it")
    return score == "sigmoid"


def _read_attention(checkpoint: Checkpoint, layers: int) -> tuple[AttentionSpec, ...]:
    """The attention of all layers, which are alike."""
    meta = checkpoint.metadata

    def number(key: str, default: int | None = None, maximum: int = 4096) -> int:
        return meta.integer_of_layers(f"deepseek2.{key}", layers, default, minimum=1, maximum=maximum)

    heads, rank = number("attention.head_count"), number("attention.kv_lora_rank")
    q_rank = meta.integer("deepseek2.attention.q_lora_rank", 0, maximum=MAX_WIDTH)
    if checkpoint.dialect == "hf":
        rope, nope, joined = (
            meta.integer("qk_rope_head_dim", minimum=2, maximum=4096),
            meta.integer("qk_nope_head_dim", minimum=1, maximum=4096),
            True,
        )
        value_dim = number("attention.value_length_mla")
        for bias in ("attention_bias", "mlp_bias"):
            if meta.boolean(bias, False):
                raise meta.wrong(bias, "false: imp does not compile these biases")
        _expect(meta, "attention.key_length", rope)
        _expect(meta, "attention.key_length_mla", nope + rope)
        _expect(meta, "attention.head_count_kv", heads)
    else:
        joined = "blk.0.attn_kv_b.weight" in checkpoint.tensors
        rope = meta.integer("deepseek2.rope.dimension_count", minimum=2, maximum=4096)
        own = "" if joined else "_mla"
        nope = number(f"attention.key_length{own}") - rope
        value_dim = number(f"attention.value_length{own}")
        if nope < 1:
            raise meta.wrong(f"deepseek2.attention.key_length{own}", f"more than rope.dimension_count ({rope})")
        _expect(meta, "attention.head_count_kv", heads if joined else 1)
        if not joined:
            _expect(meta, "attention.key_length", rank + rope)
            _expect(meta, "attention.value_length", rank)
    turning = read_rope(checkpoint, "deepseek2", rope, interleaved=_interleaved(checkpoint))
    if turning.dim != rope:
        raise CheckpointError(f"{meta.path}: {turning.dim} of the {rope} elements that turn would turn; expected all")
    latent = LatentSpec(q_rank, rank, nope, rope, value_dim, joined)
    magnitude = _magnitude(checkpoint)
    if magnitude != 1 and checkpoint.dialect == "gguf":  # which has one key for both; transformers divides by it
        turning = replace(turning, magnitude=1.0)
    scale = (nope + rope) ** -0.5 * magnitude**2
    return (AttentionSpec(heads, 1, rope + rank, scale, turning, latent=latent),) * layers


def _expect(meta: Metadata, key: str, value: int) -> None:
    """CheckpointError if a key that says again what others say contradicts them."""
    if meta.integer(f"deepseek2.{key}", value) != value:
        raise meta.wrong(f"deepseek2.{key}", str(value))


def _interleaved(checkpoint: Checkpoint) -> bool:
    return checkpoint.dialect == "gguf" or checkpoint.metadata.boolean("rope_interleave", True)


def _magnitude(checkpoint: Checkpoint) -> float:
    """What YaRN multiplies queries and keys by, all of their elements: those that do not turn, too."""
    meta, scaling = checkpoint.metadata, "deepseek2.rope.scaling"
    if meta.string(f"{scaling}.type", "none") != "yarn":
        return 1.0
    factor = meta.number(f"{scaling}.factor", 1.0, minimum=1 / MAX_SCALE, maximum=MAX_SCALE)
    if checkpoint.dialect == "hf":
        every = meta.number(f"{scaling}.mscale_all_dim", 0.0, minimum=0, maximum=MAX_SCALE)
    else:
        every = meta.number(f"{scaling}.yarn_log_multiplier", 0.0, minimum=0, maximum=MAX_SCALE) / _LOG_MULTIPLIER
    return 0.1 * every * math.log(factor) + 1 if factor > 1 else 1.0


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
