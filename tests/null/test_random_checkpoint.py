"""Random-weight checkpoints against the real files of the same configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from imp_codegen.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from imp_codegen.checkpoint.mixtures import quantisations
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.stored import Stored
from imp_codegen.targets import find_target
from imp_codegen.tokenizer import build_tokenizer

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


def weights(checkpoint: Checkpoint) -> Mapping[str, Stored]:
    architecture = load_architecture(checkpoint)
    spec = architecture.read_spec(checkpoint)
    graph = architecture.build(spec)
    return weights_of(checkpoint, graph, sources_of(architecture, checkpoint, spec, graph))


def made(tmp_path: Path, config: Json, quant: str) -> Mapping[str, Stored]:
    return weights(random_checkpoint(write(tmp_path, config), quant))


def rows(weight: Stored) -> int:
    return weight.shape[0] if len(weight.shape) > 1 else 1


@pytest.mark.parametrize(
    ("name", "config", "quant"),
    [
        ("qwen3", QWEN3, "Q8_0"),
        ("qwen3", QWEN3, "Q4_K_M"),
        *(("llama", LLAMA, quant) for quant in ("Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS")),
    ],
)
def test_is_like_the_real_file(name: str, config: Json, quant: str, tmp_path: Path) -> None:
    invented = random_checkpoint(write(tmp_path, config).parent, quant)
    real = open_checkpoint(FIXTURES / name / f"{name}-{quant}.gguf")
    assert {name: (w.shape, w.format.name) for name, w in weights(invented).items()} == {
        name: (w.shape, w.format.name) for name, w in weights(real).items()
    }
    one, two = (load_architecture(checkpoint).read_spec(checkpoint) for checkpoint in (invented, real))
    assert one.name == "random weights"
    assert dataclasses.replace(one, name=two.name, norm_eps=two.norm_eps) == two
    assert one.norm_eps == pytest.approx(two.norm_eps)  # a GGUF file has it in float32


@pytest.mark.parametrize("quant", quantisations())
def test_weights_are_sane_and_do_not_repeat(quant: str, tmp_path: Path) -> None:
    found = made(tmp_path, LLAMA | {"intermediate_size": 1024, "vocab_size": 100000}, quant)
    for name in ("token_embd.weight", "blk.1.ffn_down.weight", "output.weight"):
        weight = found[name]
        values = weight.format.dequantize(weight.rows(0, min(rows(weight), 4000)))
        assert np.isfinite(values).all()
        assert values.std() == pytest.approx(1 / 16, rel=0.02)
        assert abs(values.mean()) < 0.002
    whole = found["output.weight"].rows(0, 100000)
    assert len(np.unique(whole.view(f"V{whole.shape[1]}"))) == 100000
    norm = found["blk.0.attn_norm.weight"]
    assert norm.format.name == "F32"
    assert (norm.rows(0, 1).view("<f4") == 1).all()


def test_rows_do_not_depend_on_the_range_asked(tmp_path: Path) -> None:
    first, second = (made(tmp_path, QWEN3 | {"vocab_size": 60000}, "Q4_K_M") for _ in range(2))
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"):
        count = rows(first[name])
        whole = first[name].rows(0, count)
        for start, stop in ((0, 0), (0, 1), (count // 3, count // 2), (count - 1, count)):
            assert np.array_equal(second[name].rows(start, stop), whole[start:stop])
    names = ("blk.0.ffn_up.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight")
    assert len({first[name].rows(0, 4).tobytes() for name in names}) == 3


def test_mixture_of_a_deep_model(tmp_path: Path) -> None:
    deep = QWEN3 | {"num_hidden_layers": 36, "tie_word_embeddings": False}
    kinds = {name: weight.format.name for name, weight in made(tmp_path, deep, "Q4_K_M").items()}
    more = [layer for layer in range(36) if kinds[f"blk.{layer}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]
    assert all(kinds[f"blk.{layer}.attn_v.weight"] == ("Q6_K" if layer in more else "Q4_K") for layer in range(36))
    assert kinds["token_embd.weight"] == "Q4_K"
    assert kinds["output.weight"] == "Q6_K"


def test_rows_that_are_no_superblocks_fall_back(tmp_path: Path) -> None:
    """As llama-quantize has it: of Q4_K to Q5_0, of Q5_K to Q5_1, of Q6_K to Q8_0."""
    narrow = LLAMA | {"hidden_size": 320}
    for quant, fmt in (("Q4_K", "Q5_0"), ("Q5_K", "Q5_1")):
        kinds = {name: weight.format.name for name, weight in made(tmp_path, narrow, f"{quant}_M").items()}
        assert kinds["token_embd.weight"] == kinds["blk.0.ffn_up.weight"] == fmt
        assert kinds["blk.0.attn_output.weight"] == quant  # 256 columns
        assert {kinds[f"blk.{layer}.ffn_down.weight"] for layer in range(2)} <= {quant, "Q6_K"}
        assert kinds["output.weight"] == "Q8_0"


def test_biases(tmp_path: Path) -> None:
    found = made(tmp_path, QWEN3 | {"attention_bias": True}, "Q8_0")
    assert found["blk.0.attn_k.bias"].shape == (64,)
    assert found["blk.0.attn_output.bias"].format.name == "F32"
    assert 0 < np.abs(found["blk.0.attn_q.bias"].rows(0, 1).view("<f4")).max() < 1


def test_tokenizer_of_bytes(tmp_path: Path) -> None:
    files = build_tokenizer(random_checkpoint(write(tmp_path, LLAMA), "Q8_0"))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    text = "Hé 日本 [300]\n"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(range(32, 127))) == bytes(range(32, 127)).decode()
    assert files.vocab_size == len({tokenizer.id_to_token(index) for index in range(512)}) == 512
    assert files.stop_tokens == (509, 511)
    assert files.eos == tokenizer.token_to_id("<|im_end|>") == 511
    assert not files.add_bos


BAD_CONFIGS = {
    "not JSON": ("{", "cannot be read as JSON"),
    "not UTF-8": (b"\xff\xfe", "cannot be read as JSON"),
    "not an object": ("[]", "is not a JSON object"),
    "no architecture": ("{}", "has no key architectures"),
    "another architecture": (
        LLAMA | {"architectures": ["GPT2"]},
        "('GPT2'), expected one that imp supports",
    ),
    "no shape": (LLAMA | {"hidden_size": None}, "has no key hidden_size"),
    "text": (LLAMA | {"hidden_size": "256"}, "hidden_size is '256', expected an integer"),
    "fraction": (LLAMA | {"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5, expected an integer"),
    "huge": (LLAMA | {"hidden_size": 10**30}, "expected an integer in 1..1048576"),
    "heads": (LLAMA | {"num_key_value_heads": 5}, "num_attention_heads 4 is not a multiple of num_key_value_heads 5"),
    "small vocabulary": (LLAMA | {"vocab_size": 100}, "vocab_size is 100, expected an integer in 259"),
    "rope": (LLAMA | {"rope_scaling": {"rope_type": "yarn"}}, "has no key rope_scaling.factor"),
    "another rope": (
        LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        "rope_scaling.rope_type is 'dynamic', expected default, linear, yarn or llama3",
    ),
    "block": (
        LLAMA | {"hidden_size": 336},
        "a row of 336 weights is not a whole number of blocks of 32; choose",
    ),
    "another key": (LLAMA | {"new_thing": 3}, "key 'new_thing' is 3, but imp does not know this key"),
    "quantised": (
        LLAMA | {"quantization_config": {"quant_method": "fp8"}},
        "quantization_config.quant_method is 'fp8', but no tensor is F8_E4M3",
    ),
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
        plan_model(random_checkpoint(path, "Q4_K_M"), (find_target("sim"),), CompileOptions())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_unknown_quantisation_and_missing_file_are_refused(tmp_path: Path) -> None:
    known = ", ".join(quantisations())
    with pytest.raises(CheckpointError, match=f"unknown quantisation 'Q3_X' of random weights; known: {known}"):
        random_checkpoint(write(tmp_path, LLAMA), "Q3_X")
    with pytest.raises(CheckpointError, match=r"none\.json: does not exist"):
        random_checkpoint(tmp_path / "none.json", "Q8_0")
