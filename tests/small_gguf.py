"""Small dense models, written with gguf-py: what a test changes is a key, a tensor or the format of the matrices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, LAYERS, CONTEXT = 64, 4, 2, 16, 128, 2, 64
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB = 257 + len(SPECIAL)

Keys = Mapping[str, Any]
"""Names under the architecture, or whole ones with a known first word; None takes a key away."""

Tensors = Mapping[str, np.ndarray | None]
"""In numpy order; None takes a tensor away."""


def keys_of(arch: str) -> dict[str, Any]:
    return {
        "general.architecture": arch,
        "general.name": "small",
        f"{arch}.block_count": LAYERS,
        f"{arch}.context_length": CONTEXT,
        f"{arch}.embedding_length": HIDDEN,
        f"{arch}.feed_forward_length": WIDTH,
        f"{arch}.attention.head_count": HEADS,
        f"{arch}.attention.head_count_kv": KV_HEADS,
        f"{arch}.attention.key_length": HEAD_DIM,
        f"{arch}.attention.value_length": HEAD_DIM,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*byte_letters(), "th", *SPECIAL],
        "tokenizer.ggml.token_type": [1] * 257 + [3] * len(SPECIAL),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": VOCAB - 1,
    }


def tensors_of(arch: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (rng.standard_normal((rows, cols)) / cols**0.5).astype(np.float32)

    tensors = {"token_embd.weight": matrix(VOCAB, HIDDEN) * 8, "output.weight": matrix(VOCAB, HIDDEN) * 4}
    tensors["output_norm.weight"] = vector(rng, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors |= {
            f"{block}attn_norm.weight": vector(rng, HIDDEN),
            f"{block}attn_q.weight": matrix(queries, HIDDEN) * 3,
            f"{block}attn_k.weight": matrix(keys, HIDDEN) * 3,
            f"{block}attn_v.weight": matrix(keys, HIDDEN),
            f"{block}attn_output.weight": matrix(HIDDEN, queries),
            f"{block}ffn_norm.weight": vector(rng, HIDDEN),
            f"{block}ffn_gate.weight": matrix(WIDTH, HIDDEN),
            f"{block}ffn_up.weight": matrix(WIDTH, HIDDEN),
            f"{block}ffn_down.weight": matrix(HIDDEN, WIDTH),
        }
        if arch == "qwen3":
            tensors |= {f"{block}attn_{part}_norm.weight": vector(rng, HEAD_DIM) for part in "qk"}
    return tensors


def vector(rng: np.random.Generator, size: int) -> np.ndarray:
    """Values around 1, as norms have them."""
    return rng.uniform(0.5, 1.5, size).astype(np.float32)


def write_gguf(
    path: Path,
    arch: str = "llama",
    keys: Keys = {},  # noqa: B006
    tensors: Tensors = {},  # noqa: B006
    quant: str = "F32",
    split: int = 0,
    kinds: Mapping[str, str] = {},
) -> Path:
    """Write the small model of `arch` with other, more or fewer keys and tensors, its float32 matrices in `quant`.

    Matrices of uint8 are rows of bytes that are `quant` already. `kinds`: formats of some, in place of `quant`.
    `split`: most tensors of a part, of which the first has none; they are called as llama.cpp's converter calls them.
    """
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split, small_first_shard=split > 0)
    given = {key if key.partition(".")[0] in _WHOLE else f"{arch}.{key}": value for key, value in keys.items()}
    for key, value in (keys_of(arch) | given).items():
        if key != "general.architecture" and value is not None:
            add_key(writer, key, value)
    for name, array in (tensors_of(arch) | dict(tensors)).items():
        kind = gguf.GGMLQuantizationType[kinds.get(name, quant)]
        if array is not None and array.ndim == 2 and array.dtype == np.float32:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        elif array is not None and array.ndim == 2 and array.dtype == np.uint8:
            writer.add_tensor(name, array, raw_dtype=kind)
        elif array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_WHOLE = ("general", "tokenizer", "split", "other")


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key}: {value!r}")


def byte_letters() -> list[str]:
    """GPT-2's alphabet of bytes: https://github.com/openai/gpt-2/blob/master/src/encoder.py"""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]
