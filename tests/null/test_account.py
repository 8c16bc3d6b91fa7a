"""Whatever a file says is used, changes nothing, or is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dense_truth import Truth
from imp_codegen.checkpoint import CheckpointError, open_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.graph import Weight, verify
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.passes.account import account
from imp_codegen.reference import Reference, Weights
from imp_codegen.stored import Stored
from imp_codegen.targets import find_target
from imp_codegen.tokenizer import build_tokenizer
from small_gguf import CONTEXT, HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, VOCAB, WIDTH, Keys, Tensors, write_gguf

TOKENS = [5, 17, 200, 3, 17, 90, 41, 5, 8, 255]
RNG = np.random.default_rng(11)


def planned(path: Path, options: CompileOptions = CompileOptions()) -> Compiled:  # noqa: B008
    with closing(open_checkpoint(path)) as checkpoint:
        return plan_model(checkpoint, (find_target("sim"),), options)


def weights(stored: Mapping[str, Stored]) -> Weights:
    """The weights as the file's own formats decode them."""

    def rows(weight: Weight, start: int, stop: int) -> np.ndarray:
        source = stored[weight.name]
        return source.format.dequantize(np.ascontiguousarray(source.rows(start, stop)))

    return Weights(rows, lambda weight: "bf16")


def logits(path: Path) -> np.ndarray:
    """What imp's graph of a file computes, in float32 numpy."""
    with closing(open_checkpoint(path)) as checkpoint:
        architecture = load_architecture(checkpoint)
        spec = architecture.read_spec(checkpoint)
        graph = verify(architecture.build(spec))
        build_tokenizer(checkpoint)  # reads the keys that are its own
        sources = sources_of(architecture, checkpoint, spec, graph)
        account(checkpoint, spec, sources.values())
        return Reference(weights(weights_of(checkpoint, graph, sources)), rounded=False).run(graph, np.array(TOKENS))[
            "logits"
        ]


def refusal(path: Path, options: CompileOptions = CompileOptions()) -> str:  # noqa: B008
    with pytest.raises(CheckpointError) as caught:
        planned(path, options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def bias(size: int) -> np.ndarray:
    return RNG.standard_normal(size).astype(np.float32)


def biases_of(layer: int) -> dict[str, np.ndarray]:
    sizes = {"q": HIDDEN, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    return {f"blk.{layer}.attn_{part}.bias": bias(size) for part, size in sizes.items()}


FREQUENCIES = {"rope_freqs.weight": np.linspace(1, 4, HEAD_DIM // 2).astype(np.float32)}

YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
    "rope.freq_base": 100.0,
}

USED: dict[str, tuple[Keys, Tensors]] = {
    "the plain file": ({}, {}),
    "an output of its own or tied": ({}, {"output.weight": None}),
    "biases in one layer only": ({}, biases_of(1)),
    "a bias of one output projection": ({}, {"blk.1.attn_output.bias": bias(HIDDEN)}),
    "biases of the MLP": ({}, {"blk.0.ffn_up.bias": bias(WIDTH), "blk.0.ffn_down.bias": bias(HIDDEN)}),
    "a bias of down alone": ({}, {"blk.1.ffn_down.bias": bias(HIDDEN)}),
    "a bias of k alone": ({}, {"blk.0.attn_k.bias": bias(KV_HEADS * HEAD_DIM)}),
    "biases of k and v": ({}, {f"blk.1.attn_{part}.bias": bias(KV_HEADS * HEAD_DIM) for part in "kv"}),
    "a window": ({"attention.sliding_window": 3}, {}),
    "half of a head is turned": ({"rope.dimension_count": HEAD_DIM // 2}, {}),
    "YaRN": (YARN, {}),
    "YaRN with other betas": (
        {**YARN, "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 0.5},
        {},
    ),
    "scale of attention": ({"attention.scale": 0.05}, {}),
    "linear scaling": ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}),
    "a factor without a type": ({"rope.scaling.factor": 4.0}, {}),
    "the old key of the factor": ({"rope.scale_linear": 4.0}, {}),
    "a factor, and a type that has none": ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}),
    "divided frequencies": ({}, FREQUENCIES),
    "divided frequencies and linear scaling": (
        {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
        FREQUENCIES,
    ),
    "an epsilon that counts": ({"attention.layer_norm_rms_epsilon": 0.5}, {}),
    "a number for each layer": (
        {"attention.head_count": [4, 4], "attention.head_count_kv": [2, 2], "feed_forward_length": [WIDTH, WIDTH]},
        {},
    ),
    "keys that say the usual": (
        {
            "vocab_size": VOCAB,
            "attention.causal": True,
            "attention.sliding_window": CONTEXT,
            "attention.clamp_kqv": 0.0,
            "attn_logit_softcapping": 0.0,
            "logit_scale": 1.0,
            "residual_scale": 1.0,
            "embedding_scale": 0.0,
            "expert_count": 0,
            "expert_used_count": 0,
            "pooling_type": 3,
            "rope.scaling.attn_factor": 1.0,
            "rope.scaling.original_context_length": 32,
            "tensor_data_layout": "Meta AI original pth",
            "use_parallel_residual": False,
            "general.type": "model",
            "general.quantization_version": 2,
            "general.whatever": "x",
            "other.key": 5,
            "tokenizer.ggml.add_eos_token": True,
            "tokenizer.ggml.padding_token_id": 3,
            "tokenizer.ggml.fim_pre_token_id": 3,
            "tokenizer.ggml.token_type_count": 2,
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.huggingface.json": "{}",
        },
        {},
    ),
}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", USED)
def test_what_is_compiled_is_what_the_file_says(name: str, arch: str, tmp_path: Path) -> None:
    keys, tensors = USED[name]
    path = write_gguf(tmp_path / "m.gguf", arch, keys, tensors)
    truth = Truth(path).logits(TOKENS)
    assert np.abs(logits(path) - truth).max() < 2e-4 * np.abs(truth).max()


@pytest.mark.parametrize("name", [name for name in USED if name not in ("the plain file", "keys that say the usual")])
def test_those_files_are_other_models(name: str, tmp_path: Path) -> None:
    """The comparison above would see it if a key or tensor were left out."""
    keys, tensors = USED[name]
    if name in ("a number for each layer", "a factor, and a type that has none"):
        return
    truth = Truth(write_gguf(tmp_path / "m.gguf", "llama", keys, tensors)).logits(TOKENS)
    plain = Truth(write_gguf(tmp_path / "plain.gguf")).logits(TOKENS)
    assert np.abs(truth - plain).max() > 0.02 * np.abs(plain).max()


UNKNOWN_KEYS: dict[str, tuple[Any, str]] = {
    "logit_scale": (0.5, "llama.logit_scale is 0.5, expected 1"),
    "residual_scale": (0.5, "residual_scale is 0.5"),
    "embedding_scale": (12.0, "embedding_scale is 12.0"),
    "attn_logit_softcapping": (50.0, "attn_logit_softcapping is 50.0, expected 0"),
    "final_logit_softcapping": (30.0, "final_logit_softcapping is 30.0"),
    "attention.causal": (False, "attention.causal is False, expected true"),
    "attention.clamp_kqv": (8.0, "attention.clamp_kqv is 8.0"),
    "rope.scaling.attn_factor": (1.2, "rope.scaling.attn_factor is 1.2"),
    "rope.scaling.type": ("longrope", "rope.scaling.type is 'longrope', expected none, linear or yarn"),
    "rope.dimension_count": (HEAD_DIM + 2, "rope.dimension_count is 18, expected an integer in 2..16"),
    "expert_count": (8, "has no key llama.expert_used_count (expected an integer in 1..8)"),
    "attention.key_length": ([16, 8], "llama.attention.key_length is 16 in layer 0 and 8 in layer 1"),
    "feed_forward_length": ([WIDTH] * 3, "expected one integer, or one for each of the 2 layers"),
    "pooling_type": (4, "llama.pooling_type is 4, expected 0 (none), 1 (mean), 2 (cls) or 3 (last)"),
    "vocab_size": (VOCAB + 1, f"llama.vocab_size is {VOCAB + 1}, expected the number of rows"),
    "context_length": (1, "llama.context_length is 1, expected an integer in 2.."),
    "something_new": (2, "key 'llama.something_new' is 2, but imp does not know this key"),
    "something_textual": ("x" * 200, "key 'llama.something_textual' is 'xxx"),
    "rope.dimension_sections": ([1, 2, 3], "key 'llama.rope.dimension_sections' is a list of 3"),
    "general.type": ("adapter", "general.type is 'adapter', expected model; this file is an adapter (LoRA)"),
    "general.quantization_version": (3, "general.quantization_version is 3, expected 2"),
    "tokenizer.ggml.precompiled_charsmap": ([1, 2], "precompiled_charsmap is a list of 2 (1, 2), expected nothing: "),
    "tokenizer.ggml.remove_extra_whitespaces": (True, "remove_extra_whitespaces is True, expected false"),
    "tokenizer.ggml.suppress_tokens": ([5], "tokenizer.ggml.suppress_tokens is a list of 1 (5), expected nothing: "),
    "tokenizer.ggml.lowercase": (True, "key 'tokenizer.ggml.lowercase' is True, but imp does not know this key"),
    "tokenizer.ggml.add_sep_token": (True, "tokenizer.ggml.add_sep_token is True, expected false"),
}


@pytest.mark.parametrize("name", UNKNOWN_KEYS)
def test_a_key_that_would_be_left_out_is_an_error(name: str, tmp_path: Path) -> None:
    value, expected = UNKNOWN_KEYS[name]
    assert expected in refusal(write_gguf(tmp_path / "m.gguf", "llama", {name: value}))


def known_keys(kind: type) -> set[str]:
    """Every key of an architecture that gguf-py can write."""
    values = vars(kind).items()
    return {value for _, value in values if isinstance(value, str) and value.startswith("{arch}.")}.union(
        *(known_keys(inner) for name, inner in values if isinstance(inner, type) and not name.startswith("_"))
    )


@pytest.mark.parametrize("name", sorted(known_keys(gguf.constants.Keys)))
def test_every_key_that_gguf_py_knows(name: str, tmp_path: Path) -> None:
    """With a value that no model of this size has: refused by its name, or known to be about something refused."""
    key = name.removeprefix("{arch}.")
    path = write_gguf(tmp_path / "m.gguf", "llama", {key: 0.4375})
    if key in USED_AT_ANY_VALUE:
        planned(path)
    else:
        assert key.rpartition(".")[2] in refusal(path)


USED_AT_ANY_VALUE = {
    *("attention.scale", "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor"),
    *("attention.sliding_window_pattern", "tensor_data_layout"),
    *("expert_used_count", "expert_shared_count", "expert_feed_forward_length", "expert_weights_scale"),
    *("expert_weights_norm", "expert_gating_func", "expert_shared_feed_forward_length"),
    *("rope.scaling.finetuned", "rope.scaling.original_context_length"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
}


UNKNOWN_TENSORS: dict[str, tuple[Tensors, str]] = {
    "norms of heads": ({"blk.0.attn_q_norm.weight": bias(HEAD_DIM)}, "tensor 'blk.0.attn_q_norm.weight' is none"),
    "a bias of a norm": ({"blk.0.attn_norm.bias": bias(HIDDEN)}, "tensor 'blk.0.attn_norm.bias' is none"),
    "a bias of the output": ({"output.bias": bias(VOCAB)}, "tensor 'output.bias' is none"),
    "a scale": ({"blk.0.attn_q.scale": bias(1)}, "tensor 'blk.0.attn_q.scale' is none"),
    "a surplus layer": (
        {f"blk.{LAYERS}.attn_norm.weight": bias(HIDDEN)},
        f"tensor 'blk.{LAYERS}.attn_norm.weight' lies beyond the {LAYERS} layers of llama.block_count",
    ),
    "something else": ({"whatever": bias(3)}, "tensor 'whatever' is none that imp knows of llama"),
    "one matrix for q, k and v": (
        {
            **{f"blk.{layer}.attn_{part}.weight": None for layer in range(LAYERS) for part in "qkv"},
            **{f"blk.{layer}.attn_qkv.weight": np.ones((128, HIDDEN), np.float32) for layer in range(LAYERS)},
        },
        "tensor 'blk.0.attn_qkv.weight' (and 1 more) is none that imp knows of llama",
    ),
    "fewer rows than tokens": (
        {"token_embd.weight": np.ones((VOCAB - 4, HIDDEN), np.float32), "output.weight": None},
        f"the tokenizer has {VOCAB} tokens, but the embedding only {VOCAB - 4} rows",
    ),
    "a frequency that is nothing": (
        {"rope_freqs.weight": np.array([1, 2, 0, 1, 1, 1, 1, 1], np.float32)},
        "rope_freqs.weight[2] is 0.0, expected a positive number",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN_TENSORS)
def test_a_tensor_that_would_be_left_out_is_an_error(name: str, tmp_path: Path) -> None:
    tensors, expected = UNKNOWN_TENSORS[name]
    assert expected in refusal(write_gguf(tmp_path / "m.gguf", "llama", {}, tensors))


@pytest.mark.parametrize(("window", "local"), [(None, []), (0, []), (3, [0, 1, 2, 3, 4]), (1000, [0, 1, 2, 3, 4])])
def test_layers_of_gemma_are_local_where_there_is_a_window(
    window: int | None, local: list[int], tmp_path: Path
) -> None:
    """A window of 1000 is more than the context, but its layers turn by their own base all the same."""
    keys = {"block_count": 6, "rope.freq_base": 1e6, "attention.sliding_window": window}
    with closing(open_checkpoint(write_gguf(tmp_path / "m.gguf", "gemma3", keys))) as checkpoint:
        mixers = [layer.mixer for layer in load_architecture(checkpoint).read_spec(checkpoint).layers]
    assert [i for i, mixer in enumerate(mixers) if mixer.rope and mixer.rope.theta == 10000] == local
    assert {mixers[i].window for i in range(6) if i not in local} == {0}
    assert {mixers[i].window for i in local} <= {window if window and window < CONTEXT else 0}


def test_fewer_layers_than_are_stored(tmp_path: Path) -> None:
    assert "lies beyond the 1 layers" in refusal(write_gguf(tmp_path / "m.gguf", "llama", {"block_count": 1}))


def test_two_files_in_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    message = refusal(path)
    assert f"{len(whole)} bytes follow the last tensor" in message
    assert "name one part" in message
