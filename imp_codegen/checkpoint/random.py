"""A checkpoint of random weights with a real model's shapes, for measurements and tests: nothing is downloaded.

Weights have a standard deviation of 1 / sqrt(hidden size) and norms are 1, so that activations stay finite. Every
tensor is a window on one pool of random blocks per format that starts where the tensor's name says and wraps around;
the pool's length is a prime number of blocks, so rows of one tensor do not repeat below that many rows.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError, Dialect, TensorInfo, row_range
from imp_codegen.checkpoint.metadata import Metadata, Value
from imp_codegen.quant import QuantError, format_named

_ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
_PRE_TOKENIZER = {"llama": "llama-bpe", "qwen3": "qwen2"}
_QUANTS = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q4_K_M")
_POOL_BLOCKS = 262139  # prime; above the rows of any vocabulary
_POOL_WEIGHTS = 4194301  # prime; for formats whose block is one weight
_ROPE_FACTORS = "rope_freqs.weight"
_CHAT_TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class RandomCheckpoint:
    """A checkpoint whose bytes are made when they are asked for; the same (tensor, row) always gives the same bytes."""

    __slots__ = ("_deviation", "_fixed", "_pools", "metadata", "path", "tensors")

    dialect: Dialect = "gguf"
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]

    def __init__(
        self,
        path: Path,
        metadata: Metadata,
        tensors: Mapping[str, TensorInfo],
        fixed: Mapping[str, NDArray[np.float32]],
        deviation: float,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._fixed = fixed  # float32 tensors of one row whose values are not random
        self._deviation = deviation
        self._pools: dict[str, NDArray[np.uint8]] = {}

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of the rows start..stop of a tensor, uint8[stop - start, row bytes]."""
        tensor = row_range(self.path, self.tensors, name, start, stop)
        row_bytes = tensor.nbytes // tensor.rows
        if name in self._fixed:
            return self._fixed[name].view(np.uint8).reshape(1, -1)[start:stop]
        pool = self._pool(tensor.format)
        block_bytes = format_named(tensor.format).block_bytes
        first = zlib.crc32(name.encode()) % (pool.size // block_bytes) * block_bytes
        rows = np.empty((stop - start) * row_bytes, np.uint8)
        at = (first + start * row_bytes) % pool.size
        done = 0
        while done < rows.size:
            count = min(rows.size - done, pool.size - at)
            rows[done : done + count] = pool[at : at + count]
            done, at = done + count, 0
        return rows.reshape(stop - start, row_bytes)

    def text(self, name: str, longest: int) -> None:
        """Nothing: whatever there is to say is in the keys."""

    def close(self) -> None:
        """Release the pools."""
        self._pools.clear()

    def _pool(self, name: str) -> NDArray[np.uint8]:
        if name not in self._pools:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            self._pools[name] = _POOLS[name](rng, self._deviation).reshape(-1).view(np.uint8)
        return self._pools[name]


def random_checkpoint(config: Path, quant: str) -> RandomCheckpoint:
    """A checkpoint of the shapes in a Hugging Face config.json (or the folder that holds one), stored as `quant`."""
    if quant not in _QUANTS:
        raise CheckpointError(f"unknown quantisation {quant!r} of random weights; known: {', '.join(_QUANTS)}")
    path = config / "config.json" if config.is_dir() else config
    shape = _read_shape(_read_config(path))
    tensors, offset = {}, 0
    for name, dimensions in _tensor_shapes(shape):
        fmt = format_named("F32" if len(dimensions) == 1 else _format(name, quant, shape))
        try:
            nbytes = math.prod(dimensions[:-1]) * fmt.row_bytes(dimensions[-1])
        except QuantError as error:
            raise CheckpointError(f"{path}: {name} cannot be {fmt.name}: {error}; choose Q8_0 or F16") from None
        tensors[name] = TensorInfo(name, dimensions, fmt.name, offset, nbytes)
        offset += nbytes
    fixed = {name: np.ones(tensor.shape, "<f4") for name, tensor in tensors.items() if name.endswith("norm.weight")}
    if shape.rope_factors is not None:
        fixed[_ROPE_FACTORS] = shape.rope_factors
    return RandomCheckpoint(path, Metadata(path, _metadata(shape)), tensors, fixed, 1 / math.sqrt(shape.hidden))


@dataclass(frozen=True, slots=True)
class _Shape:
    arch: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    context: int
    epsilon: float
    rope_base: float
    rope_factors: NDArray[np.float32] | None
    tied: bool
    biased: bool


def _read_config(path: Path) -> Metadata:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: is not a JSON object; give a model's config.json")
    flat: dict[str, Value] = {}
    for key, value in config.items():
        parts = {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
        flat |= {name: item for name, item in parts.items() if item is not None}
    return Metadata(path, flat)


def _read_shape(config: Metadata) -> _Shape:
    arch = next((_ARCHITECTURES[name] for name in config.strings("architectures") if name in _ARCHITECTURES), None)
    if arch is None:
        raise config.wrong("architectures", f"one of {', '.join(_ARCHITECTURES)}")
    if config.boolean("mlp_bias", False):
        raise config.wrong("mlp_bias", "false; imp has no biases in the MLP")
    hidden = config.integer("hidden_size", minimum=1, maximum=1 << 20)
    heads = config.integer("num_attention_heads", minimum=1, maximum=1 << 16)
    head_size = config.integer("head_dim", max(hidden // heads, 1), minimum=2, maximum=1 << 12)
    base = config.number(
        "rope_parameters.rope_theta" if "rope_parameters.rope_theta" in config else "rope_theta", 10000.0, minimum=1
    )
    return _Shape(
        arch=arch,
        hidden=hidden,
        intermediate=config.integer("intermediate_size", minimum=1, maximum=1 << 22),
        layers=config.integer("num_hidden_layers", minimum=1, maximum=1 << 10),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads, minimum=1, maximum=heads),
        head_size=head_size,
        vocab=config.integer("vocab_size", minimum=256 + len(_SPECIAL_TOKENS), maximum=1 << 20),
        context=config.integer("max_position_embeddings", minimum=1, maximum=1 << 30),
        epsilon=config.number("rms_norm_eps", 1e-6, minimum=0, maximum=1),
        rope_base=base,
        rope_factors=_rope_factors(config, head_size, base),
        tied=config.boolean("tie_word_embeddings", False),
        biased=config.boolean("attention_bias", False),
    )


def _rope_factors(config: Metadata, head_size: int, base: float) -> NDArray[np.float32] | None:
    """Divisors of the rotary frequencies, as llama 3 scales them: none where a turn is short, all where it is long."""
    group = "rope_parameters" if "rope_parameters.rope_type" in config else "rope_scaling"
    kind = config.string(f"{group}.rope_type", config.string(f"{group}.type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise config.wrong(f"{group}.rope_type", "default or llama3")
    factor, low, high, context = (
        config.number(f"{group}.{name}", minimum=1e-3)
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low >= high:
        raise config.wrong(f"{group}.low_freq_factor", f"less than high_freq_factor ({high})")
    turns = context / (2 * math.pi) * base ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype("<f4")


def _tensor_shapes(shape: _Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    if shape.rope_factors is not None:
        yield _ROPE_FACTORS, shape.rope_factors.shape
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (shape.hidden,)
        for name, rows, cols in (
            ("attn_q", queries, shape.hidden),
            ("attn_k", keys, shape.hidden),
            ("attn_v", keys, shape.hidden),
            ("attn_output", shape.hidden, queries),
        ):
            yield f"{block}{name}.weight", (rows, cols)
            if shape.biased:
                yield f"{block}{name}.bias", (rows,)
        if shape.arch == "qwen3":
            yield block + "attn_q_norm.weight", (shape.head_size,)
            yield block + "attn_k_norm.weight", (shape.head_size,)
        yield block + "ffn_norm.weight", (shape.hidden,)
        yield block + "ffn_gate.weight", (shape.intermediate, shape.hidden)
        yield block + "ffn_up.weight", (shape.intermediate, shape.hidden)
        yield block + "ffn_down.weight", (shape.hidden, shape.intermediate)
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocab, shape.hidden)


def _format(name: str, quant: str, shape: _Shape) -> str:
    """Format of a matrix. Q4_K_M is llama-quantize's mixture of Q4_K and Q6_K."""
    if quant != "Q4_K_M":
        return quant
    if name == ("token_embd.weight" if shape.tied else "output.weight"):
        return "Q6_K"
    block, _, part = name.removeprefix("blk.").partition(".")
    if part not in ("attn_v.weight", "ffn_down.weight"):
        return "Q4_K"
    layer, eighth = int(block), shape.layers // 8
    more_bits = layer < eighth or layer >= 7 * shape.layers // 8 or (layer - eighth) % 3 == 2
    return "Q6_K" if more_bits else "Q4_K"


def _metadata(shape: _Shape) -> dict[str, Value]:
    arch = shape.arch
    eos = shape.vocab - 1
    return {
        "general.architecture": arch,
        "general.name": "random weights",
        f"{arch}.block_count": shape.layers,
        f"{arch}.context_length": shape.context,
        f"{arch}.embedding_length": shape.hidden,
        f"{arch}.feed_forward_length": shape.intermediate,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.key_length": shape.head_size,
        f"{arch}.attention.value_length": shape.head_size,
        f"{arch}.attention.layer_norm_rms_epsilon": shape.epsilon,
        f"{arch}.rope.freq_base": shape.rope_base,
        f"{arch}.rope.dimension_count": shape.head_size,
        f"{arch}.vocab_size": shape.vocab,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _PRE_TOKENIZER[arch],
        "tokenizer.ggml.tokens": _tokens(shape.vocab),
        "tokenizer.ggml.token_type": [1] * (shape.vocab - len(_SPECIAL_TOKENS)) + [3] * len(_SPECIAL_TOKENS),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _CHAT_TEMPLATE,
    }


def _tokens(count: int) -> list[str]:
    """Ids 0..255 are the bytes, in the byte-level alphabet; the last ones are special; the rest no text gives."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    dummies = [f"[{index}]" for index in range(256, count - len(_SPECIAL_TOKENS))]
    return [*(letters[byte] for byte in range(256)), *dummies, *_SPECIAL_TOKENS]


def _halves(value: float, count: int) -> NDArray[np.uint8]:
    return np.full(count, value, "<f2").view(np.uint8).reshape(count, 2)


def _normal(rng: np.random.Generator, deviation: float) -> NDArray[np.float32]:
    return rng.standard_normal(_POOL_WEIGHTS, np.float32) * np.float32(deviation)


def _q8_0(rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    codes = rng.integers(-127, 128, (_POOL_BLOCKS, 32), np.int8)
    return np.hstack([_halves(deviation / _spread(codes), _POOL_BLOCKS), codes.view(np.uint8)])


def _q4_k(rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    """Each block's minimum is 7.5 steps, so that the mean is zero: dmin = 7.5 d and m = sc."""
    sc = rng.integers(0, 256, (_POOL_BLOCKS, 4), np.uint8)
    low = rng.integers(0, 16, (_POOL_BLOCKS, 4), np.uint8)
    codes = rng.integers(0, 256, (_POOL_BLOCKS, 128), np.uint8)
    step = deviation / (_spread(np.arange(64)) * np.arange(16).std())
    d, dmin = _halves(step, _POOL_BLOCKS), _halves(7.5 * step, _POOL_BLOCKS)
    return np.hstack([d, dmin, sc, sc, low | low << 4, codes])


def _q6_k(rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    blocks = rng.integers(0, 256, (_POOL_BLOCKS, 210), np.uint8)
    step = deviation / (_spread(np.arange(-128, 128)) * _spread(np.arange(-32, 32)))
    blocks[:, 208:] = _halves(step, _POOL_BLOCKS)
    return blocks


def _spread(values: NDArray[np.integer]) -> float:
    """Root of the mean square."""
    return math.sqrt(np.square(values, dtype=np.float64).mean())


_POOLS: Mapping[str, Callable[[np.random.Generator, float], NDArray[np.generic]]] = {
    "F32": _normal,
    "F16": lambda rng, deviation: _normal(rng, deviation).astype("<f2"),
    "BF16": lambda rng, deviation: (_normal(rng, deviation).view("<u4") >> 16).astype("<u2"),
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
