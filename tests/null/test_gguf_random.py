"""Random-weight checkpoints against the real files of the same configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.quant import format_named
from imp_codegen.tokenizer.gguf import from_keys

FIXTURES = Path(__file__).parents[1] / "fixtures"
Json = dict[str, Any]  # a config.json

COMMON: Json = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "pad_token_id": None,
}
LLAMA: Json = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
QWEN3: Json = COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
}


def write(tmp_path: Path, config: Json) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), "utf-8")
    return path


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
@pytest.mark.parametrize(("name", "config"), [("llama", LLAMA), ("qwen3", QWEN3)])
def test_is_like_the_real_file(name: str, config: Json, quant: str, tmp_path: Path) -> None:
    made = random_checkpoint(write(tmp_path, config).parent, quant)
    real = open_checkpoint(FIXTURES / name / f"{name}-{quant}.gguf")
    assert {t.name: (t.shape, t.format, t.nbytes) for t in made.tensors.values()} == {
        t.name: (t.shape, t.format, t.nbytes) for t in real.tensors.values()
    }
    for key in real.metadata:
        if key.startswith(name) and "epsilon" not in key and "freq_base" not in key:
            assert made.metadata.integer(key) == real.metadata.integer(key), key
        elif key.startswith(name):
            assert made.metadata.number(key) == pytest.approx(real.metadata.number(key))
    assert made.metadata.string("general.architecture") == name
    if name == "llama":
        factors = made.rows("rope_freqs.weight", 0, 1).view("<f4")
        assert np.allclose(factors, real.rows("rope_freqs.weight", 0, 1).view("<f4"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q4_K_M"])
def test_weights_are_sane_and_do_not_repeat(quant: str, tmp_path: Path) -> None:
    made = random_checkpoint(write(tmp_path, LLAMA | {"intermediate_size": 1024, "vocab_size": 100000}), quant)
    for name in ("token_embd.weight", "blk.1.ffn_down.weight", "output.weight"):
        tensor = made.tensors[name]
        weights = format_named(tensor.format).dequantize(made.rows(name, 0, min(tensor.rows, 4000)))
        assert np.isfinite(weights).all()
        assert weights.std() == pytest.approx(1 / 16, rel=0.02)
        assert abs(weights.mean()) < 0.002
    rows = made.rows("output.weight", 0, 100000)
    assert len(np.unique(rows.view(f"V{rows.shape[1]}"))) == 100000
    norm = made.tensors["blk.0.attn_norm.weight"]
    assert norm.format == "F32"
    assert (made.rows(norm.name, 0, 1).view("<f4") == 1).all()


def test_rows_do_not_depend_on_the_range_asked(tmp_path: Path) -> None:
    first, second = (random_checkpoint(write(tmp_path, QWEN3 | {"vocab_size": 60000}), "Q4_K_M") for _ in range(2))
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"):
        rows = first.tensors[name].rows
        whole = first.rows(name, 0, rows)
        for start, stop in ((0, 0), (0, 1), (rows // 3, rows // 2), (rows - 1, rows)):
            assert np.array_equal(second.rows(name, start, stop), whole[start:stop])
    names = ("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight")
    assert len({first.rows(name, 0, 4).tobytes() for name in names}) == 3
    with pytest.raises(CheckpointError, match="has 256 rows, not"):
        first.rows("blk.0.ffn_up.weight", 200, 257)


def test_mixture_of_a_deep_model(tmp_path: Path) -> None:
    made = random_checkpoint(write(tmp_path, QWEN3 | {"num_hidden_layers": 36, "tie_word_embeddings": False}), "Q4_K_M")
    more = [layer for layer in range(36) if made.tensors[f"blk.{layer}.ffn_down.weight"].format == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]
    assert all(made.tensors[f"blk.{n}.attn_v.weight"].format == ("Q6_K" if n in more else "Q4_K") for n in range(36))
    assert made.tensors["token_embd.weight"].format == "Q4_K"
    assert made.tensors["output.weight"].format == "Q6_K"


def test_biases_and_new_style_rope_parameters(tmp_path: Path) -> None:
    parameters = {"rope_theta": 7.0, "rope_type": "default"}
    config = QWEN3 | {"attention_bias": True, "rope_parameters": parameters, "rope_theta": None}
    made = random_checkpoint(write(tmp_path, config), "Q8_0")
    assert made.tensors["blk.0.attn_k.bias"].shape == (64,)
    assert made.tensors["blk.0.attn_output.bias"].format == "F32"
    assert 0 < np.abs(made.rows("blk.0.attn_q.bias", 0, 1).view("<f4")).max() < 1
    assert made.metadata.number("qwen3.rope.freq_base") == 7.0


def test_tokenizer_of_bytes(tmp_path: Path) -> None:
    files = from_keys(random_checkpoint(write(tmp_path, LLAMA), "Q8_0").metadata)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    text = "Hé 日本 [300]\n"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(range(32, 127))) == bytes(range(32, 127)).decode()
    assert files.vocab_size == len({tokenizer.id_to_token(index) for index in range(512)}) == 512
    assert files.stop_tokens == (509, 511)
    assert files.eos == tokenizer.token_to_id("<|im_end|>") == 511


BAD_CONFIGS = {
    "not JSON": ("{", "cannot be read as JSON"),
    "not UTF-8": (b"\xff\xfe", "cannot be read as JSON"),
    "not an object": ("[]", "is not a JSON object"),
    "no architecture": ("{}", "has no key architectures"),
    "another architecture": (LLAMA | {"architectures": ["GPT2"]}, "a list of 1 ('GPT2'), expected one of"),
    "no shape": (LLAMA | {"hidden_size": None}, "has no key hidden_size"),
    "text": (LLAMA | {"hidden_size": "256"}, "hidden_size is '256', expected an integer"),
    "fraction": (LLAMA | {"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5, expected an integer"),
    "huge": (LLAMA | {"hidden_size": 10**30}, "expected an integer in 1..1048576"),
    "heads": (LLAMA | {"num_key_value_heads": 5}, "num_key_value_heads is 5, expected an integer in 1..4"),
    "small vocabulary": (LLAMA | {"vocab_size": 100}, "vocab_size is 100, expected an integer in 259"),
    "rope": (LLAMA | {"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn', expected default or llama3"),
    "block": (
        LLAMA | {"hidden_size": 320},
        "a row of 320 weights is not a whole number of blocks of 256; choose",
    ),
    "MLP bias": (LLAMA | {"mlp_bias": True}, "mlp_bias is True, expected false"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config_is_refused_by_name(name: str, tmp_path: Path) -> None:
    config, expected = BAD_CONFIGS[name]
    path = tmp_path / "config.json"
    if isinstance(config, bytes):
        path.write_bytes(config)
    else:
        path.write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError) as caught:
        random_checkpoint(path, "Q4_K_M")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_unknown_quantisation_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown quantisation 'Q3_K' of random weights; known: F32, F16"):
        random_checkpoint(write(tmp_path, LLAMA), "Q3_K")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        random_checkpoint(tmp_path / "none.json", "Q8_0")
