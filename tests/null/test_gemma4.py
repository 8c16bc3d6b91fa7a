"""What a folder of Gemma 4 may say in several ways, and what it may hold though nobody reads it."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
import pytest
from test_folder_account import FIXTURES, copied, hold, planes, planned, refusal, say, spec, weights

from converted import convert
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.models import load_architecture
from imp_codegen.rope import rope_turns
from imp_codegen.spec import MoeSpec
from small_gguf import add_key

KEYS = FIXTURES / "gemma4_moe" / "gemma4_moe-keys.gguf"
GLOBAL = 2  # a layer of the fixture; local ones have two heads of 32 for keys, these one of 64


def test_heads_of_global_layers_by_layer_as_transformers_5_has_them(tmp_path: Path) -> None:
    usual = spec(copied("gemma4_e2b", tmp_path / "usual"))
    each = {str(layer): {"head_dim": 64, "num_key_value_heads": 1} for layer in (2, 4)}
    folder = copied("gemma4_e2b", tmp_path)
    assert spec(say(folder, global_head_dim=..., num_global_key_value_heads=..., per_layer_config=each)) == usual
    mixer = usual.layers[GLOBAL].mixer
    assert (mixer.head_dim, mixer.kv_heads, mixer.tied_values, mixer.window) == (64, 1, True, 0)


def test_of_a_global_head_the_first_quarter_of_the_pairs_turns(tmp_path: Path) -> None:
    mixer = spec(copied("gemma4_e2b", tmp_path)).layers[GLOBAL].mixer
    assert mixer.rope is not None
    turns = rope_turns(mixer.rope)
    assert (turns != 0).tolist() == [True] * 8 + [False] * 24


def test_layers_that_share_read_the_last_owner_of_their_kind(tmp_path: Path) -> None:
    layers = spec(copied("gemma4_e2b", tmp_path)).layers
    assert [layer.mixer.shares for layer in layers] == [None, None, None, 1, 2]
    assert [layer.ffn.width for layer in layers] == [128, 128, 128, 256, 256]


def test_keys_and_values_that_nobody_reads_may_be_stored(tmp_path: Path) -> None:
    folder = copied("gemma4_e2b", tmp_path)
    held, parts = weights(folder), ("k_proj", "v_proj", "k_norm")
    unread = {f"model.layers.3.self_attn.{p}.weight": held[f"model.layers.1.self_attn.{p}.weight"] for p in parts}
    assert planned(hold(folder, held | unread)).notes == planned(copied("gemma4_e2b", tmp_path / "usual")).notes


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_experts": 8}, "enable_moe_block is False, expected true, as num_experts is 8"),
        ({"enable_moe_block": True}, "enable_moe_block is True, expected false, as num_experts is 0"),
        ({"vocab_size_per_layer_input": 300}, "vocab_size_per_layer_input is 300, expected 512"),
        (
            {"num_kv_shared_layers": 3},
            "num_kv_shared_layers is 3, expected layers of both kinds before those that share",
        ),
        ({"num_global_key_value_heads": 3}, "num_global_key_value_heads is 3, expected a divisor of the 4 heads"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all', expected false, or vision"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in refusal(say(copied("gemma4_e2b", tmp_path), **fields))


def test_a_value_that_a_layer_needs_must_be_there(tmp_path: Path) -> None:
    folder = copied("gemma4_e2b", tmp_path)
    held = weights(folder)
    del held["model.layers.0.self_attn.v_proj.weight"]
    assert "tensor 'model.layers.0.self_attn.v_proj.weight' is missing" in refusal(hold(folder, held))


def test_a_dense_model_may_say_that_it_has_no_experts(tmp_path: Path) -> None:
    none = {"num_experts": None, "top_k_experts": None, "moe_intermediate_size": None, "enable_moe_block": False}
    usual = spec(copied("gemma4_e2b", tmp_path / "usual"))
    assert spec(say(copied("gemma4_e2b", tmp_path), **none)) == usual


def test_a_dense_network_beside_experts(tmp_path: Path) -> None:
    found = spec(copied("gemma4_moe", tmp_path))
    mixture = MoeSpec(5, 3, 96, "gelu_tanh", scaled=True, beside=160, joined=True)
    assert [layer.ffn for layer in found.layers] == [mixture] * 2
    heads = [(layer.mixer.head_dim, layer.mixer.kv_heads, layer.mixer.tied_values) for layer in found.layers]
    assert heads == [(32, 2, False), (64, 1, True)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"enable_moe_block": False}, "enable_moe_block is False, expected true, as num_experts is 5"),
        ({"num_experts": ...}, "enable_moe_block is True, expected false, as num_experts is 0"),
        ({"top_k_experts": 6}, "top_k_experts is 6, expected an integer in 1..5"),
        ({"moe_intermediate_size": 48}, "has shape [5, 96, 128], expected [5, 48, 128]"),
        ({"num_experts": 4}, "blk.0.ffn_gate_inp.weight has shape [5, 128], expected [4, 128]"),
    ],
)
def test_what_does_not_fit_a_mixture_is_named(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in refusal(say(copied("gemma4_moe", tmp_path), **fields))


def test_the_network_beside_experts_is_wide_where_layers_share(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    fields = {"num_hidden_layers": 4, "layer_types": kinds, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    with closing(open_checkpoint(say(copied("gemma4_moe", tmp_path), **fields))) as checkpoint:
        layers = load_architecture(checkpoint).read_spec(checkpoint).layers
    assert [layer.ffn.beside for layer in layers if isinstance(layer.ffn, MoeSpec)] == [160, 160, 320, 320]


def test_gate_and_up_apart_are_the_same_planes(tmp_path: Path) -> None:
    """llama.cpp reads both: files whose converter joined them, and others."""
    together = convert(copied("gemma4_moe", tmp_path), KEYS, tmp_path / "together.gguf")
    apart = taken_apart(together, tmp_path / "apart.gguf")
    assert spec(apart).layers[0].ffn == dataclasses.replace(spec(together).layers[0].ffn, joined=False)
    assert planes(apart) == planes(together)


def test_experts_in_nvfp4_are_refused(tmp_path: Path) -> None:
    """Whose factor has the name of what shares are multiplied by."""
    with closing(open_checkpoint(convert(copied("gemma4_moe", tmp_path), KEYS, tmp_path / "m.gguf"))) as checkpoint:
        name = "blk.1.ffn_down_exps.weight"
        found = {**checkpoint.tensors, name: dataclasses.replace(checkpoint.tensors[name], format="NVFP4")}
        with (
            patch.object(type(checkpoint), "tensors", found),
            pytest.raises(CheckpointError, match=f"tensor '{name}' is NVFP4, which imp does not read of gemma4"),
        ):
            load_architecture(checkpoint).read_spec(checkpoint)


def taken_apart(source: Path, output: Path) -> Path:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, "gemma4")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            add_key(writer, name, field.contents())
    for tensor in reader.tensors:
        parts = {tensor.name: tensor.data}
        if "ffn_gate_up_exps" in tensor.name:
            names = (tensor.name.replace("gate_up", part) for part in ("gate", "up"))
            parts = dict(zip(names, np.split(tensor.data, 2, axis=1), strict=True))
        for name, data in parts.items():
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output
