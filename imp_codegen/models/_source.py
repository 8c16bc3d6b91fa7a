"""What weights are called in the dialects of checkpoints, and where they lie in the ways that several models have.

A weight of the graph has GGUF's name. Sources: https://github.com/ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py;
transformers, models/*/modeling_*.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from imp_codegen.checkpoint import Dialect
from imp_codegen.sources import Permute, Plus, Source, Tensor
from imp_codegen.spec import ModelSpec

# transformers' modules, by GGUF's names.
_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Of norms behind the branches only.
POST_LAYER = LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA_LAYER = LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def usual(weight: str, dialect: Dialect, layer: Mapping[str, str] = LAYER) -> Tensor:
    """The tensor that holds a weight where an architecture has no ways of its own.

    `layer`: transformers' modules of a layer; an architecture with others gives `LAYER | {...}`.
    """
    if dialect == "gguf":
        return Tensor(weight)
    part, _, kind = weight.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", part)
    module = f"model.layers.{block[1]}.{layer[block[2]]}" if block else _MODEL[part]
    return Tensor(f"{module}.{kind}")


def usual_source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """A tensor of the usual name."""
    return usual(weight, dialect)


def interleaved_source(weight: str, spec: ModelSpec, dialect: Dialect, layer: Mapping[str, str] = LAYER) -> Source:
    """As usual, but where halves of a head turn together, q and k are permuted as GGUF's converter does it.

    So one rotary embedding, of neighbours, serves both dialects.
    """
    stored = usual(weight, dialect, layer)
    part = re.fullmatch(r"blk\.(\d+)\.attn_([qk])\.(?:weight|bias)", weight)
    if dialect == "gguf" or part is None:
        return stored
    mixer = spec.layers[int(part[1])].mixer
    return Permute(stored, mixer.heads if part[2] == "q" else mixer.kv_heads)


def gemma_source(weight: str, spec: ModelSpec, dialect: Dialect) -> Source:
    """Gemma's norms stand before and behind, and transformers stores of their weights what is above one."""
    stored = usual(weight, dialect, GEMMA_LAYER)
    return Plus(stored, 1.0) if dialect == "hf" and weight.endswith("norm.weight") else stored
