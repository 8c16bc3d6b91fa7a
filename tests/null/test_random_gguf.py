"""The GGUF file of random weights: read by the gguf package, it has a real model's tensors, kinds and keys."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import random_gguf

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.models import load_architecture, sources_of, weights_of

SHAPES = Path(__file__).parents[2] / "models" / "shapes"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 300,
    "max_position_embeddings": 1000,
    "rms_norm_eps": 1e-5,
    "rope_theta": 12345.0,
    "tie_word_embeddings": False,
}


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG), "utf-8")
    return path


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    """What llama.cpp asks of one, and stacks as it has them: columns, rows, experts."""
    mixture = {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 6, "num_experts_per_tok": 2}
    shape, output = tmp_path / "mixture.json", tmp_path / "out.gguf"
    shape.write_text(json.dumps({**CONFIG, **mixture, "moe_intermediate_size": 96, "norm_topk_prob": True}), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", output)
    reader = gguf.GGUFReader(output)
    keys = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 96, "block_count": 8}
    for key, value in keys.items():
        assert reader.get_field(f"qwen3moe.{key}").contents() == value, key
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 8).mapping.values()
    assert set(tensors) <= {f"{name}.weight" for _, name in names}
    assert len(tensors) == 3 + 8 * 12
    assert tensors["blk.0.ffn_gate_exps.weight"].shape.tolist() == [256, 96, 6]
    assert tensors["blk.7.ffn_down_exps.weight"].shape.tolist() == [96, 256, 6]
    with closing(random_checkpoint(shape, "Q8_0")) as checkpoint:
        architecture = load_architecture(checkpoint)
        graph = architecture.build(architecture.read_spec(checkpoint))
        stored = weights_of(checkpoint, graph, {})["blk.3.ffn_up_exps.weight"]
        np.testing.assert_array_equal(tensors["blk.3.ffn_up_exps.weight"].data.reshape(6 * 96, -1), stored.rows(0, 576))


def test_a_dense_network_beside_experts(tmp_path: Path) -> None:
    """Gemma 4's, with heads of two kinds: imp reads of the file what it reads of the config.json."""
    config = json.loads((SHAPES / "gemma-4-26b-a4b.json").read_text("utf-8"))
    few = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "vocab_size": 300}
    shape, output = tmp_path / "gemma.json", tmp_path / "out.gguf"
    shape.write_text(json.dumps(config | few | {"num_experts": 9, "hidden_size": 256}), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", output)
    tensors = {tensor.name for tensor in gguf.GGUFReader(output).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, 2).mapping.values()
    extra = {f"blk.{layer}.ffn_{name}" for layer in (0, 1) for name in ("gate_inp.scale", "down_exps.scale")}
    apart = {f"blk.{layer}.ffn_{part}_exps.weight" for layer in (0, 1) for part in ("gate", "up")}
    assert tensors - {f"{name}.weight" for _, name in names} == extra | apart
    with closing(random_checkpoint(shape, "Q8_0")) as invented, closing(open_checkpoint(output)) as written:
        one, two = (load_architecture(each).read_spec(each) for each in (invented, written))
    layers = tuple(replace(layer, ffn=replace(layer.ffn, joined=False)) for layer in one.layers)
    assert replace(one, name=two.name, layers=layers, norm_eps=two.norm_eps) == two


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "BF16"])
def test_what_another_reader_finds(tmp_path: Path, shape: Path, quant: str) -> None:
    output = tmp_path / "out.gguf"
    random_gguf.write_random_gguf(shape, quant, output)
    reader = gguf.GGUFReader(output)
    keys = {
        "general.architecture": "qwen3",
        "tokenizer.ggml.model": "none",
        "qwen3.vocab_size": 300,
        "qwen3.block_count": 8,
        "qwen3.context_length": 1000,
        "qwen3.embedding_length": 256,
        "qwen3.feed_forward_length": 512,
        "qwen3.attention.head_count": 6,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 128,
        "qwen3.attention.value_length": 128,
        "qwen3.rope.dimension_count": 128,
        "qwen3.rope.freq_base": 12345.0,
    }
    for key, value in keys.items():
        assert reader.get_field(key).contents() == value, key
    assert reader.get_field("qwen3.attention.layer_norm_rms_epsilon").contents() == pytest.approx(1e-5)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # gguf's own list of an architecture's tensors, so that llama.cpp misses none and finds none too many.
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 8).mapping.values()
    known = {f"{name}.weight" for _, name in names}
    assert set(tensors) <= known
    assert len(tensors) == 3 + 8 * 11
    assert tensors["blk.7.attn_q.weight"].shape.tolist() == [256, 768]  # columns first
    assert tensors["blk.0.ffn_down.weight"].shape.tolist() == [512, 256]
    assert tensors["output.weight"].shape.tolist() == [256, 300]
    kinds = [tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2]
    if quant == "Q4_K_M":
        # llama-quantize gives more bits to v and down of the first and last eighth and of each third layer between.
        assert kinds.count("Q6_K") == 1 + 2 * 4
        assert kinds.count("Q4_K") == len(kinds) - 9
        assert tensors["output.weight"].tensor_type.name == "Q6_K"
    else:
        assert set(kinds) == {quant}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all()
        if len(tensor.shape) == 1:
            assert (values == 1).all()
        else:
            assert values.std() == pytest.approx(1 / 16, rel=0.05)
            assert abs(values.mean()) < 0.01


def test_the_weights_are_those_that_imp_invents(tmp_path: Path, shape: Path) -> None:
    output = tmp_path / "out.gguf"
    random_gguf.write_random_gguf(shape, "Q4_K_M", output)
    with closing(random_checkpoint(shape, "Q4_K_M")) as invented, closing(open_checkpoint(output)) as written:
        architecture = load_architecture(invented)
        graph = architecture.build(architecture.read_spec(invented))
        weights = weights_of(invented, graph, {})
        assert written.tensors.keys() == weights.keys()
        for name, weight in weights.items():
            tensor = written.tensors[name]
            assert (tensor.shape, tensor.format) == (weight.shape, weight.format.name)
            assert np.array_equal(written.rows(name, 0, tensor.rows), weight.rows(0, tensor.rows))


def test_llama_rope_factors_travel_too(tmp_path: Path, shape: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    shape.write_text(json.dumps(CONFIG | {"architectures": ["LlamaForCausalLM"], "rope_scaling": scaling}), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    factors = tensors["rope_freqs.weight"].data
    assert (factors[0], factors[-1]) == (1.0, 8.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{shape}", "Q3_X", "o.gguf"], "Q3_X"),
        (["/no/such.json", "Q8_0", "o.gguf"], "/no/such.json"),
        (["{shape}", "FP8", "o.gguf"], "GGUF files have no FP8_BLOCKS, which token_embd.weight would be"),
    ],
)
def test_bad_input(
    shape: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.replace("{shape}", str(shape)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["random_gguf.py", *given])
    assert random_gguf.main() == 2
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.count("\n") == 1


SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 1000,
}
OTHERS = {
    "gemma3": SMALL
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 64,
        "sliding_window": 256,
        "query_pre_attn_scalar": 64,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi3": SMALL | {"architectures": ["Phi3ForCausalLM"], "rope_theta": 250000, "sliding_window": None},
    "qwen2": SMALL | {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False},
    "qwen3moe": SMALL
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 64,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
    },
    "llama": SMALL | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_read_back_as_they_were(tmp_path: Path, name: str) -> None:
    """Windows, two rotary embeddings, biases, several matrices in one tensor, and experts."""
    shape, output = tmp_path / "tiny.json", tmp_path / "out.gguf"
    shape.write_text(json.dumps(OTHERS[name]), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", output)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, name.upper()), 6).mapping.values()
    known = {f"{stored}.{kind}" for _, stored in names for kind in ("weight", "bias")}
    assert {tensor.name for tensor in gguf.GGUFReader(output).tensors} <= known
    with closing(random_checkpoint(shape, "Q8_0")) as invented, closing(open_checkpoint(output)) as written:
        of = load_architecture(invented)
        spec, read = of.read_spec(invented), of.read_spec(written)
        assert read.layers == spec.layers
        graph = of.build(spec)
        before = weights_of(invented, graph, {})
        after = weights_of(written, graph, sources_of(of, written, read, graph))
        assert before.keys() == after.keys()
        for weight in before:
            assert np.array_equal(before[weight].rows(0, 1), after[weight].rows(0, 1)), weight


def test_a_class_that_always_has_biases_gets_no_others(tmp_path: Path) -> None:
    """As transformers' Qwen2Attention: q, k and v have one, the output none, whatever attention_bias says."""
    shape = tmp_path / "tiny.json"
    shape.write_text(json.dumps(OTHERS["qwen2"] | {"attention_bias": True}), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", tmp_path / "out.gguf")
    found = {
        tensor.name.split(".", 2)[2]
        for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors
        if ".bias" in tensor.name
    }
    assert found == {"attn_q.bias", "attn_k.bias", "attn_v.bias"}


SMALL = {
    "deepseek-v2-lite": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "vocab_size": 300,
                         "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 6,
                         "num_experts_per_tok": 2, "moe_intermediate_size": 256},
    "gpt-oss-20b": {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 300,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 6,
                    "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arch"), [("deepseek-v2-lite", gguf.MODEL_ARCH.DEEPSEEK2), ("gpt-oss-20b", gguf.MODEL_ARCH.GPT_OSS)]
)
def test_latent_attention_and_sinks(tmp_path: Path, name: str, arch: gguf.MODEL_ARCH) -> None:
    """All tensors are gguf's, all of a layer are there, and imp reads the numbers that it wrote."""
    config = json.loads((SHAPES / f"{name}.json").read_text("utf-8")) | SMALL[name]
    shape, output = tmp_path / "config.json", tmp_path / "out.gguf"
    shape.write_text(json.dumps(config), "utf-8")
    random_gguf.write_random_gguf(shape, "Q8_0", output)
    layers = config["num_hidden_layers"]
    known = {f"{each}.{kind}" for _, each in gguf.get_tensor_name_map(arch, layers).mapping.values()
             for kind in ("weight", "bias")}  # fmt: skip
    tensors = {tensor.name: tensor.shape.tolist() for tensor in gguf.GGUFReader(output).tensors}
    assert tensors.keys() <= known
    if arch == gguf.MODEL_ARCH.DEEPSEEK2:
        assert tensors["blk.1.attn_k_b.weight"] == [128, 512, 4]
        assert tensors["blk.1.attn_v_b.weight"] == [512, 128, 4]
        assert tensors["blk.1.attn_q.weight"] == [256, 4 * 192]
        assert tensors["blk.1.attn_kv_a_mqa.weight"] == [256, 576]
    else:
        assert tensors["blk.1.attn_sinks.weight"] == [4]
        assert tensors["blk.1.post_attention_norm.weight"] == [256]
        assert tensors["blk.1.ffn_down_exps.bias"] == [256, 6]
    with closing(random_checkpoint(shape, "Q8_0")) as invented, closing(open_checkpoint(output)) as written:
        architecture = load_architecture(invented)
        want, found = architecture.read_spec(invented), architecture.read_spec(written)
    for layer, other in zip(want.layers, found.layers, strict=True):
        mixer = layer.mixer
        if mixer.latent is not None:  # a file has the two matrices apart
            mixer = replace(mixer, latent=replace(mixer.latent, joined=False))
        assert replace(other.mixer, scale=mixer.scale, rope=mixer.rope) == mixer
        assert other.mixer.scale == pytest.approx(mixer.scale, rel=1e-6)
        assert other.mixer.rope is not None
        assert mixer.rope is not None
        assert other.mixer.rope.factors == pytest.approx(mixer.rope.factors, rel=1e-5)
        assert other.ffn == layer.ffn
