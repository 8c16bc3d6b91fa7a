"""A checkpoint of random weights with a real model's numbers, for measurements and tests: nothing is downloaded.

It is a folder whose config.json is real and whose tokenizer is invented. Its weights are invented, too, under the
names that the graph has for them. They have a standard deviation of 1 / sqrt(hidden size) and norms and scales are 1,
so that what is computed stays finite. Every tensor is a window on one pool of random blocks per format that starts
where the tensor's name says and wraps around (`random_blocks.py`); the pool's length is a prime number of blocks, so
rows of a tensor do not repeat below that many rows.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.config import CONFIG, read_config
from imp_codegen.checkpoint.contract import CheckpointError, Dialect, TensorInfo
from imp_codegen.checkpoint.metadata import Metadata
from imp_codegen.checkpoint.mixtures import format_in_mixture, quantisations
from imp_codegen.checkpoint.random_blocks import random_blocks
from imp_codegen.formats import Format, FormatError, format_named

_CHAT_TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LARGEST_VOCABULARY = 1 << 20


class RandomCheckpoint:
    """A checkpoint whose bytes are made when they are asked for; the same (weight, row) always gives the same bytes.

    `fixed`: vectors that are not random, float32 by name.
    """

    __slots__ = ("_pools", "fixed", "metadata", "path", "quant", "tensors")

    dialect: Dialect = "hf"
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path, metadata: Metadata, quant: str) -> None:
        self.path = path
        self.metadata = metadata
        self.quant = quant
        self.tensors = {}
        self.fixed: dict[str, NDArray[np.float32]] = {}
        self._pools: dict[tuple[str, float], NDArray[np.uint8]] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """None: its weights are made."""
        return ()

    @property
    def name(self) -> str:
        """What the model is called."""
        return "random weights"

    def weights(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, RandomWeight | RandomGroup]:
        """Weights of these shapes, vectors one-dimensional; their names are GGUF's."""
        hidden = self.metadata.integer("random.embedding_length", minimum=1)
        return {name: self._weight(name, shape, shapes, 1 / math.sqrt(hidden)) for name, shape in shapes.items()}

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Nothing is stored."""
        raise CheckpointError(f"{self.path}: has no tensor {name!r}")

    def text(self, name: str, longest: int) -> bytes | None:
        """The files of an invented tokenizer whose first tokens are the bytes."""
        key = "vocab_size"
        least = 256 + len(_SPECIAL_TOKENS)
        invented = _TEXTS.get(name)
        if invented is None:
            return None
        vocab = self.metadata.integer(key, minimum=least, maximum=_LARGEST_VOCABULARY)
        return json.dumps(invented(vocab)).encode()

    def close(self) -> None:
        """Release the pools."""
        self._pools.clear()

    def _weight(
        self, name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]], deviation: float
    ) -> RandomWeight | RandomGroup:
        fmt = format_named("F32" if len(shape) == 1 else format_in_mixture(name, self.quant, shapes))
        try:
            fmt.row_bytes(shape[-1])
        except FormatError as error:
            raise CheckpointError(f"{self.path}: {name} cannot be {fmt.name}: {error}; choose Q8_0 or F16") from None
        if len(shape) == 1 and (name in self.fixed or name.endswith(("norm.weight", "layer_output_scale.weight"))):
            values = self.fixed.get(name, np.ones(shape, "<f4"))
            return RandomWeight(shape, fmt, lambda: values.view(np.uint8), 0)
        first = zlib.crc32(name.encode())
        if fmt.of:
            codes = format_named(fmt.of[0])
            return RandomGroup(RandomWeight(shape, codes, lambda: self._pool(codes.name, deviation), first), fmt)
        return RandomWeight(shape, fmt, lambda: self._pool(fmt.name, deviation), first)

    def _pool(self, name: str, deviation: float) -> NDArray[np.uint8]:
        if (name, deviation) not in self._pools:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            self._pools[name, deviation] = random_blocks(format_named(name), rng, deviation)
        return self._pools[name, deviation]


class RandomWeight:
    """A window on a pool of blocks, which begins with block `first`, counted round and round."""

    __slots__ = ("_first", "_pool", "format", "shape")

    def __init__(self, shape: tuple[int, ...], fmt: Format, pool: Callable[[], NDArray[np.uint8]], first: int) -> None:
        self.shape = shape
        self.format = fmt
        self._pool = pool
        self._first = first

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of the rows start..stop, uint8[stop - start, row bytes]."""
        pool, row_bytes = self._pool(), self.format.row_bytes(self.shape[-1])
        first = self._first % (pool.size // self.format.block_bytes) * self.format.block_bytes
        rows = np.empty((stop - start) * row_bytes, np.uint8)
        at = (first + start * row_bytes) % pool.size
        done = 0
        while done < rows.size:
            count = min(rows.size - done, pool.size - at)
            rows[done : done + count] = pool[at : at + count]
            done, at = done + count, 0
        return rows.reshape(stop - start, row_bytes)


class RandomGroup:
    """Random codes with float32 scales of 1 beside them."""

    __slots__ = ("_codes", "format", "shape")

    def __init__(self, codes: RandomWeight, fmt: Format) -> None:
        self.shape = codes.shape
        self.format = fmt
        self._codes = codes

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of the rows start..stop, uint8[stop - start, row bytes]."""
        codes = self._codes.rows(start, stop)
        scales = (self.format.row_bytes(self.shape[-1]) - codes.shape[1]) // 4
        return np.hstack([codes, np.ones((stop - start, scales), "<f4").view(np.uint8)])


def random_checkpoint(config: Path, quant: str) -> RandomCheckpoint:
    """A checkpoint of the numbers in a config.json (or the folder that holds one), its matrices stored as `quant`."""
    if quant not in (known := quantisations()):
        raise CheckpointError(f"unknown quantisation {quant!r} of random weights; known: {', '.join(known)}")
    path = config / CONFIG if config.is_dir() else config
    return RandomCheckpoint(path, read_config(path), quant)


def _tokenizer(vocab: int) -> dict[str, object]:
    """Ids 0..255 are the bytes, in the byte-level alphabet; the last ones are special; the rest no text gives."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    dummies = [f"[{index}]" for index in range(256, vocab - len(_SPECIAL_TOKENS))]
    tokens = [*(letters[byte] for byte in range(256)), *dummies, *_SPECIAL_TOKENS]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    first = vocab - len(_SPECIAL_TOKENS)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": first + i, "content": text, **flags} for i, text in enumerate(_SPECIAL_TOKENS)],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: index for index, token in enumerate(tokens)}, "merges": []},
    }


def _tokenizer_config(vocab: int) -> dict[str, object]:
    return {"eos_token": _SPECIAL_TOKENS[-1], "add_bos_token": False, "chat_template": _CHAT_TEMPLATE}


def _generation_config(vocab: int) -> dict[str, object]:
    return {"eos_token_id": [vocab - 3, vocab - 1]}


_TEXTS: Mapping[str, Callable[[int], dict[str, object]]] = {
    "tokenizer.json": _tokenizer,
    "tokenizer_config.json": _tokenizer_config,
    "generation_config.json": _generation_config,
}
