"""The shipped demo model: its file, its tokenizer, and its numbers against Hugging Face's on the same weights."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import jinja2
import numpy as np
import pytest
from gguf.quants import dequantize
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "tools/demo_model/results.json").read_text("utf-8"))
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Demo:
    fields: dict[str, object]
    kinds: dict[str, gguf.GGMLQuantizationType]
    weights: dict[str, Array]


@pytest.fixture(scope="module")
def demo() -> Demo:
    reader = gguf.GGUFReader(ROOT / "models/demo.gguf")
    return Demo(
        {name: field.contents() for name, field in reader.fields.items()},
        {tensor.name: tensor.tensor_type for tensor in reader.tensors},
        {tensor.name: np.array(dequantize(tensor.data, tensor.tensor_type), np.float32) for tensor in reader.tensors},
    )


@pytest.fixture(scope="module")
def tokenizer(demo: Demo) -> Tokenizer:
    """Built from the GGUF's vocabulary and merges only."""
    tokens = demo.fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in demo.fields["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    kinds = demo.fields["tokenizer.ggml.token_type"]
    built.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == 3])
    return built


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6)) * weight


def logits_of(demo: Demo, ids: NDArray[np.int32]) -> Array:
    """(tokens, vocabulary): the model written out in numpy, one sequence from position 0."""
    weights, fields = demo.weights, demo.fields
    heads, kv_heads = fields["qwen3.attention.head_count"], fields["qwen3.attention.head_count_kv"]
    width = fields["qwen3.attention.key_length"]
    frequency = fields["qwen3.rope.freq_base"] ** -(np.arange(0, width, 2) / width)
    angle = np.arange(len(ids))[:, None, None] * frequency
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    hidden_future = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)

    def rotate(x: Array) -> Array:
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)

    x = weights["token_embd.weight"][ids]
    for layer in range(fields["qwen3.block_count"]):
        w = {name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"blk.{layer}.")}
        y = rms_norm(x, w["attn_norm"])
        q = rotate(rms_norm((y @ w["attn_q"].T).reshape(len(ids), heads, width), w["attn_q_norm"]))
        k = rotate(rms_norm((y @ w["attn_k"].T).reshape(len(ids), kv_heads, width), w["attn_k_norm"]))
        v = (y @ w["attn_v"].T).reshape(len(ids), kv_heads, width)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(math.sqrt(width)) + hidden_future
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        share /= share.sum(axis=-1, keepdims=True)
        x = x + (share @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(len(ids), -1) @ w["attn_output"].T
        y = rms_norm(x, w["ffn_norm"])
        gate = y @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    return rms_norm(x, weights["output_norm.weight"]) @ weights["token_embd.weight"].T


def test_file_is_small_and_q8_0(demo: Demo) -> None:
    assert (ROOT / "models/demo.gguf").stat().st_size <= 8_000_000
    assert sum(weight.size for weight in demo.weights.values()) == RESULTS["training"]["parameters"]
    for name, weight in demo.weights.items():
        kind = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
        assert demo.kinds[name] == kind, name
        assert weight.ndim == 1 or weight.shape[1] % 256 == 0, name
    assert "output.weight" not in demo.weights
    assert demo.fields["general.architecture"] == "qwen3"


def test_special_tokens(demo: Demo) -> None:
    tokens, kinds = demo.fields["tokenizer.ggml.tokens"], demo.fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    assert control == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokens[demo.fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert tokens[demo.fields["tokenizer.ggml.padding_token_id"]] == "<|endoftext|>"
    assert demo.fields["tokenizer.ggml.pre"] == "qwen2"
    assert demo.fields["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize("trimmed", [True, False])
def test_chat_template_is_chatml(demo: Demo, trimmed: bool) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye\n"},
    ]
    environment = jinja2.Environment(trim_blocks=trimmed, lstrip_blocks=trimmed, autoescape=False)
    template = environment.from_string(demo.fields["tokenizer.chat_template"])
    expected = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    assert template.render(messages=messages, add_generation_prompt=False) == expected
    assert template.render(messages=messages, add_generation_prompt=True) == expected + "<|im_start|>assistant\n"


def test_tokenizer_reproduces_the_measured_text(tokenizer: Tokenizer) -> None:
    text = (ROOT / "tools/demo_model/heldout.txt").read_text("utf-8")
    ids = tokenizer.encode(text).ids
    assert len(ids) == RESULTS["heldout_tokens"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|im_start|>user\n").ids[0] == tokenizer.get_vocab_size() - 2


def test_logits_equal_hugging_faces(demo: Demo) -> None:
    golden = np.load(ROOT / "tests/fixtures/demo/logits.npz")
    prompt, greedy = golden["prompt_ids"], golden["greedy_ids"]
    np.testing.assert_allclose(logits_of(demo, prompt), golden["logits"], atol=2e-3)
    both = np.concatenate([prompt, greedy])
    predicted = logits_of(demo, both)[len(prompt) - 1 : -1].argmax(axis=-1)
    clear = golden["greedy_margin"] > 1e-2
    assert clear.sum() >= 12
    np.testing.assert_array_equal(predicted[clear], greedy[clear])


def test_perplexity_of_the_first_windows(demo: Demo, tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode((ROOT / "tools/demo_model/heldout.txt").read_text("utf-8")).ids)
    losses = []
    for window in np.split(ids[: 512 * RESULTS["prefix_windows"]], RESULTS["prefix_windows"]):
        logits = logits_of(demo, window)[:-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(511), window[1:]])
    assert math.exp(np.mean(losses)) == pytest.approx(RESULTS["prefix_perplexity_q8_0"], rel=1e-4)


def test_quantisation_costs_nothing() -> None:
    assert RESULTS["perplexity_q8_0"] == pytest.approx(RESULTS["perplexity_bf16"], rel=0.005)
