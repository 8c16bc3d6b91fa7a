"""Gemma 4, its text (GGUF `gemma4`): layers of two kinds, heads of two sizes, normed values, unscaled scores.

Global layers have larger heads, perhaps other numbers of them, and no v but what k is before its norm; of their pairs
only the first turn. The last layers may have neither k nor v and read the cache of the last layer of their kind that
has, and every layer may add an input of the token's own (E2B, E4B). Of 26B-A4B a dense network and experts work side by
side; its router reads the residual stream by a norm of its own. Sources: transformers, models/gemma4;
https://github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

import re
from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint, CheckpointError, Dialect
from imp_codegen.graph import Graph
from imp_codegen.models._blocks import build_decoder
from imp_codegen.models._decoder import MAX_WIDTH, Variant, read_decoder, read_pattern
from imp_codegen.models._experts import Experts
from imp_codegen.models._rope import MAX_SCALE, STILL
from imp_codegen.models._source import GEMMA_LAYER, usual
from imp_codegen.rope import RopeSpec
from imp_codegen.sources import HalfOfEach, Source, Tensor, Times
from imp_codegen.spec import AttentionSpec, LayerSpec, ModelSpec, MoeSpec

_PERIOD = 6
_PROPORTIONAL = "proportional"
_LAYER = GEMMA_LAYER | {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj",
}
# Of a mixture what is no module's weight.
_OF_EXPERTS = {
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
}
_INPUTS = {
    "per_layer_token_embd": "embed_tokens_per_layer",
    "per_layer_model_proj": "per_layer_model_projection",
    "per_layer_proj_norm": "per_layer_projection_norm",
}
_TEXT = {
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "head_dim": 256,
    "hidden_size_per_layer_input": 256,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_kv_shared_layers": 0,
    "rms_norm_eps": 1e-6,
    "rope_parameters.full_attention.partial_rotary_factor": 0.25,
    "rope_parameters.full_attention.rope_theta": 1000000.0,
    "rope_parameters.full_attention.rope_type": _PROPORTIONAL,
    "rope_parameters.sliding_attention.rope_theta": 10000.0,
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "use_double_wide_mlp": False,
    "vocab_size": 262144,
}
CLASSES = {"Gemma4ForCausalLM": _TEXT, "Gemma4ForConditionalGeneration": _TEXT}


def source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """As usual; transformers calls the factor of a layer's output, and what makes the token's own inputs, otherwise."""
    part = weight.removesuffix(".weight")
    if dialect == "hf" and part in _INPUTS:
        return Tensor(f"model.{_INPUTS[part]}.weight")
    if dialect == "hf" and (layer := re.fullmatch(r"blk\.(\d+)\.layer_output_scale", part)):
        return Tensor(f"model.layers.{layer[1]}.layer_scalar")
    mixture = re.fullmatch(r"blk\.(\d+)\.(ffn_(gate_inp|gate_exps|up_exps|down_exps)\.\w+)", weight)
    if mixture is None or weight.endswith("ffn_gate_inp.weight"):
        return usual(weight, dialect, _LAYER)
    return _of_mixture(int(mixture[1]), mixture[2], spec, dialect)


def _of_mixture(layer: int, name: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """The factor 1 / sqrt(hidden) of a router's input is a part of its norm; gate and up may be one matrix."""
    ffn = spec.layers[layer].ffn
    assert isinstance(ffn, MoeSpec)
    part = name.removesuffix("_exps.weight")
    halves = ("ffn_gate", "ffn_up") if ffn.joined else ()
    stored = "ffn_gate_up_exps.weight" if part in halves else name
    tensor = Tensor(f"model.layers.{layer}.{_OF_EXPERTS[stored]}" if dialect == "hf" else f"blk.{layer}.{stored}")
    if name == "ffn_gate_inp.scale":
        return Times(tensor, spec.hidden**-0.5)
    if part not in halves:
        return tensor
    return HalfOfEach(tensor, halves.index(part))


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The model's numbers."""
    meta, hf = checkpoint.metadata, checkpoint.dialect == "hf"
    variant = Variant(
        head_norms=True,
        activation="gelu_tanh",
        norms="both",
        rope_scalings=(_PROPORTIONAL,),
        experts=Experts() if _has_experts(checkpoint) else None,
    )
    spec = read_decoder(checkpoint, "gemma4", variant)
    count = len(spec.layers)
    local = [*read_pattern(checkpoint, "gemma4", count, _PERIOD)]
    if hf:
        local[-1] = False  # whatever layer_types says
    own = count - meta.integer("gemma4.attention.shared_kv_layers", 0, maximum=count - 1)
    owners = {kind: max((i for i in range(own) if local[i] == kind), default=None) for kind in (True, False)}
    wide = hf and meta.boolean("use_double_wide_mlp")
    widths = meta.integers_of_layers("gemma4.feed_forward_length", count, minimum=1, maximum=MAX_WIDTH)
    extra = meta.integer("gemma4.embedding_length_per_layer_input", 0, maximum=MAX_WIDTH)
    if hf and meta.integer("vocab_size_per_layer_input", spec.vocab) != spec.vocab and extra:
        raise meta.wrong("vocab_size_per_layer_input", f"{spec.vocab}, as vocab_size has it")

    def layer(index: int) -> LayerSpec:
        old, near = spec.layers[index], local[index]
        mixer = (_local if near else _global)(checkpoint, old.mixer, index)
        mixer = replace(mixer, scale=1.0, value_norms=True)
        ffn = old.ffn
        if isinstance(ffn, MoeSpec):
            ffn = replace(ffn, scaled=True, beside=widths[index], joined=hf or ffn.joined)
        if index >= own:
            owner = owners[near]
            if owner is None:
                raise meta.wrong("gemma4.attention.shared_kv_layers", "layers of both kinds before those that share")
            mixer = replace(mixer, shares=owner, tied_values=False)
            if wide:
                twice = 2 * widths[index]
                ffn = replace(ffn, beside=twice) if isinstance(ffn, MoeSpec) else replace(ffn, width=twice)
        scaled = hf or f"blk.{index}.layer_output_scale.weight" in checkpoint.tensors
        return replace(old, mixer=mixer, ffn=ffn, extra=extra, output_scale=scaled)

    softcap = meta.number("gemma4.final_logit_softcapping", 0.0, minimum=0, maximum=MAX_SCALE)
    layers = tuple(map(layer, range(count)))
    return replace(spec, layers=layers, embedding_scale=spec.hidden**0.5, logit_softcap=softcap)


def _has_experts(checkpoint: Checkpoint) -> bool:
    """Whether layers are mixtures. CheckpointError where a folder says it both ways, or a file holds them in NVFP4."""
    meta, count = checkpoint.metadata, checkpoint.metadata.integer("gemma4.expert_count", 0, minimum=0)
    if checkpoint.dialect == "hf" and meta.boolean("enable_moe_block") != (count > 0):
        raise meta.wrong("enable_moe_block", f"{str(count > 0).lower()}, as num_experts is {count}")
    for name, tensor in checkpoint.tensors.items():
        # llama.cpp has one name for a factor of NVFP4 and for what an expert's share is multiplied by.
        if tensor.format == "NVFP4" and name.endswith("ffn_down_exps.weight"):
            raise CheckpointError(f"{checkpoint.path}: tensor {name!r} is NVFP4, which imp does not read of gemma4")
    return count > 0


def _local(checkpoint: Checkpoint, mixer: AttentionSpec, index: int) -> AttentionSpec:
    """A layer that sees a window; in a config.json the usual numbers are those of such layers."""
    meta, dim = checkpoint.metadata, mixer.head_dim
    theta = meta.number("gemma4.rope.freq_base_swa", 10000.0, minimum=1e-3, maximum=MAX_SCALE)
    if checkpoint.dialect == "hf":
        if meta.string("gemma4.rope.scaling_swa.type", "default") != "default":
            raise meta.wrong("gemma4.rope.scaling_swa.type", "default")
        return replace(mixer, rope=RopeSpec(dim, theta, interleaved=False))
    dim = meta.integer("gemma4.attention.key_length_swa", dim, minimum=2, maximum=4096)
    for key in ("attention.value_length_swa", "rope.dimension_count_swa"):
        if meta.integer(f"gemma4.{key}", dim) != dim:
            raise meta.wrong(f"gemma4.{key}", f"{dim}, as attention.key_length_swa has it")
    return replace(
        mixer, head_dim=dim, rope=RopeSpec(dim, theta, interleaved=False), tied_values=_tied(checkpoint, index)
    )


def _global(checkpoint: Checkpoint, mixer: AttentionSpec, index: int) -> AttentionSpec:
    """A layer that sees all; in a GGUF file the usual numbers are those of such layers."""
    if checkpoint.dialect == "gguf":
        return replace(mixer, window=0, tied_values=_tied(checkpoint, index))
    meta = checkpoint.metadata
    tied = meta.boolean("attention_k_eq_v")
    dim = meta.integer("global_head_dim", 512, minimum=2, maximum=4096)
    kv_heads = meta.integer("num_global_key_value_heads", mixer.kv_heads, minimum=1, maximum=4096)
    kv_heads = kv_heads if tied else mixer.kv_heads
    if any(key.startswith("per_layer_config.") for key in meta):  # since transformers 5.2 in their place
        own = f"per_layer_config.{index}"
        dim = meta.integer(f"{own}.head_dim", mixer.head_dim, minimum=2, maximum=4096)
        kv_heads = meta.integer(f"{own}.num_key_value_heads", mixer.kv_heads, minimum=1, maximum=4096)
    if mixer.heads % kv_heads:
        raise meta.wrong("num_global_key_value_heads", f"a divisor of the {mixer.heads} heads")
    if meta.string("gemma4.rope.scaling.type") != _PROPORTIONAL:
        raise meta.wrong("gemma4.rope.scaling.type", _PROPORTIONAL)
    turning = int(meta.number("gemma4.rope.partial_factor", minimum=0, maximum=1) * dim // 2)
    theta = meta.number("gemma4.rope.freq_base", minimum=1e-3, maximum=MAX_SCALE)
    factors = (1.0,) * turning + (STILL,) * (dim // 2 - turning)
    rope = RopeSpec(dim, theta, False, factors if turning < dim // 2 else ())
    return replace(mixer, head_dim=dim, kv_heads=kv_heads, rope=rope, window=0, tied_values=tied)


def _tied(checkpoint: Checkpoint, index: int) -> bool:
    return f"blk.{index}.attn_v.weight" not in checkpoint.tensors


def build(spec: ModelSpec) -> Graph:
    """The graph of one step."""
    return build_decoder(spec)
