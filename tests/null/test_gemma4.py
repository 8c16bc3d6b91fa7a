"""What a folder of Gemma 4 may say in several ways, and what it may hold though nobody reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_folder_account import copied, hold, planned, refusal, say, spec, weights

from imp_codegen.rope import rope_turns

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
        ({"num_experts": 8, "enable_moe_block": True}, "is a mixture of experts (num_experts is 8)"),
        ({"enable_moe_block": True}, "enable_moe_block is True, expected false"),
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
