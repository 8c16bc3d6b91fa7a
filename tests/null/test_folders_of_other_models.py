"""Small folders of architectures that have no fixture: what a GGUF file of the same weights becomes, they become."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converted import convert
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.pack import computed, pack
from imp_codegen.spec import ModelSpec
from imp_codegen.targets import find_target
from small_gguf import Keys, write_gguf

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "llama" / "hf"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, LAYERS, VOCAB, CONTEXT = 64, 4, 2, 16, 128, 4, 512, 64
CONFIG = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
USUAL = ("input_layernorm", "post_attention_layernorm")
GEMMA = (*USUAL, "pre_feedforward_layernorm", "post_feedforward_layernorm")
KEYS = {"block_count": LAYERS, "attention.layer_norm_rms_epsilon": 1e-5}
# Fields of config.json, norms of a layer, and GGUF keys that say the same.
MODELS: dict[str, tuple[dict[str, Any], tuple[str, ...], Keys]] = {
    "granite": (
        {"architectures": ["GraniteForCausalLM"], "rope_theta": 20000.0, "embedding_multiplier": 12.0,
         "logits_scaling": 8.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125},
        USUAL,
        {"rope.freq_base": 20000.0, "embedding_scale": 12.0, "logit_scale": 8.0, "residual_scale": 0.25,
         "attention.scale": 0.125},
    ),
    "smollm3": (
        {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4,
         "layer_types": ["full_attention"] * LAYERS, "use_sliding_window": False, "sliding_window": None},
        USUAL,
        {"rope.freq_base": 2000000.0},
    ),
    "gemma2": (
        {"architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": HEAD_DIM,
         "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8, "attn_logit_softcapping": 50.0},
        GEMMA,
        {"attention.sliding_window": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
}  # fmt: skip


def write_folder(path: Path, config: dict[str, Any], norms: tuple[str, ...]) -> Path:
    """A folder of random BF16 weights with llama's tokenizer."""
    shutil.copytree(TOKENIZER, path)
    (path / "config.json").write_text(json.dumps(CONFIG | config), "utf-8")
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        shapes |= {f"{block}{name}": (HIDDEN,) for name in norms}
        rows = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM, "o": HIDDEN}
        shapes |= {f"{block}self_attn.{part}_proj": (count, HIDDEN) for part, count in rows.items()}
        shapes |= {f"{block}mlp.{part}_proj": (WIDTH, HIDDEN) for part in ("gate", "up")}
        shapes[f"{block}mlp.down_proj"] = (HIDDEN, WIDTH)
    rng, header, data = np.random.default_rng(4), {}, b""
    for name, shape in shapes.items():
        raw = (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def made(path: Path) -> tuple[ModelSpec, dict[str, bytes]]:
    with closing(open_checkpoint(path)) as checkpoint:
        compiled = plan_model(checkpoint, (find_target("sim"),), CompileOptions())
        packed = pack(compiled.plan.planes, compiled.weights.__getitem__, computed(compiled.ropes))
        return compiled.spec, {name: b"".join(map(bytes, chunks)) for name, chunks in packed}


@pytest.mark.parametrize("arch", MODELS)
def test_same_numbers_and_same_planes(arch: str, tmp_path: Path) -> None:
    config, norms, keys = MODELS[arch]
    folder = write_folder(tmp_path / "folder", config, norms)
    like = write_gguf(tmp_path / "like.gguf", arch, KEYS | dict(keys))
    spec, planes = made(folder)
    other_spec, other_planes = made(convert(folder, like, tmp_path / "converted.gguf"))
    assert dataclasses.replace(spec, name="small", norm_eps=other_spec.norm_eps) == other_spec
    assert planes == other_planes
