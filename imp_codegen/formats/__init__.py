"""Storage formats: what the bytes of a weight mean in a file. How a kernel wants them is another matter (`layouts/`).

One file per format in this folder; each exports `FORMAT`, and its presence is its registration (what several share is
in files with names like `_this`). A format that a file spreads over several tensors, such as codes and scales, is a
group: a row of it is the rows of all of them side by side.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_runtime.errors import ImpError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What IQ4_NL's codes stand for, and IQ4_XS's."""
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the codes of e2m1 stand for, in MXFP4 and NVFP4."""


def _e4m3() -> Floats:
    code = np.arange(128)
    mantissa, exponent = code & 7, code >> 3
    size = np.where(exponent > 0, 8 + mantissa, mantissa) * np.exp2(np.maximum(exponent, 1) - 10.0)
    size[0x7F] = np.nan
    return np.concatenate([size, -size]).astype(np.float32)


E4M3 = _e4m3()
"""What a code of eight bits stands for: a sign, four bits of exponent (bias 7), three of mantissa; no infinities, and
0x7f and 0xff are no numbers. https://onnx.ai/onnx/technical/float8.html (e4m3fn)"""


class FormatError(ImpError):
    """A format that does not exist, or a shape or buffer that does not fit a format."""


@dataclass(frozen=True, slots=True)
class Part:
    """An array of a row: `nbytes` bytes for every `weights` consecutive weights, or once a row where that is 0.

    The last of a row may be fewer weights, where the format's blocks allow it.
    `rows`: consecutive rows that share it, where a group's tensor has it once for all of them.
    """

    nbytes: int
    weights: int
    rows: int = 1

    def row_bytes(self, cols: int) -> int:
        """Bytes of `cols` weights of one row in this array."""
        return -(-cols // self.weights) * self.nbytes if self.weights else self.nbytes


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights that are `values[code]` times a float16 scale, one for every `per` consecutive weights of a row.

    Layouts take formats of this kind without knowing them. `values` are whole numbers of eight bits; where there are
    none, a code is an int8 itself. `split(raw uint8[n, row bytes])` gives the codes, uint8[n, cols], and the scales,
    uint8[n, cols / per * 2].
    """

    per: int
    split: Callable[[Bytes], tuple[Bytes, Bytes]]
    values: tuple[int, ...] = ()

    def dequantize(self, raw: Bytes) -> Floats:
        """The weights, float32[n, cols]."""
        codes, scales = self.split(np.ascontiguousarray(raw))
        whole = np.array(self.values, np.float32)[codes] if self.values else codes.view(np.int8).astype(np.float32)
        factors = scales.view("<f2").astype(np.float32)
        with np.errstate(invalid="ignore"):  # a file may hold inf or nan scales; they are the file's values
            weights: Floats = whole.reshape(*factors.shape, self.per) * factors[..., None]
        return weights.reshape(len(raw), -1)


@dataclass(frozen=True, slots=True)
class Format:
    """A storage format: weights of a row come in blocks of `block`, and its bytes are `parts` side by side.

    `name` is GGML's, or safetensors' dtype; `ggml_type` GGUF's number, where it has one. `dequantize(raw uint8[n, row
    bytes])` gives the weights, float32[n, cols]. `codes`: what they are made of, where layouts need not know more.
    `of`: the formats of a group's tensors, one a part; empty for a format that is one tensor.
    """

    name: str
    block: int
    parts: tuple[Part, ...]
    dequantize: Callable[[Bytes], Floats]
    ggml_type: int | None = None
    codes: Codes | None = None
    of: tuple[str, ...] = ()

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in the file, but for what a row has once."""
        return sum(part.row_bytes(self.block) for part in self.parts if part.weights)

    @property
    def one_by_one(self) -> bool:
        """Whether a row is its weights one after the other, and nothing else."""
        return self.block == 1 and len(self.parts) == 1

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights in the file."""
        if cols <= 0 or cols % self.block:
            raise FormatError(f"{self.name}: a row of {cols} weights is not a whole number of blocks of {self.block}")
        return sum(part.row_bytes(cols) for part in self.parts)

    def cols(self, row_bytes: int) -> int:
        """Weights of a row of so many bytes."""
        once = sum(part.nbytes for part in self.parts if not part.weights)
        whole = math.lcm(self.block, *(part.weights for part in self.parts if part.weights))
        nbytes = sum(part.row_bytes(whole) for part in self.parts if part.weights)
        cols = (row_bytes - once) * whole // nbytes // self.block * self.block
        while cols > 0 and self.row_bytes(cols) > row_bytes:  # as its last scale is for fewer weights than others
            cols -= self.block
        if cols <= 0 or self.row_bytes(cols) != row_bytes:
            raise FormatError(f"{self.name}: {row_bytes} bytes are no row of blocks of {self.block} weights")
        return cols


def nibbles(qs: Bytes) -> Bytes:
    """The codes of blocks: byte i of the n of a block has those of weights i and n + i. uint8[..., n] to [..., 2 n]."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def two_bits(qs: Bytes) -> Bytes:
    """The codes of superblocks of 256, uint8[..., 256], two bits each: Q2_K's and Q3_K's 64 bytes."""
    halves = qs.reshape(*qs.shape[:-1], 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return (halves & np.uint8(3)).reshape(*qs.shape[:-1], 256)


def bits(words: Bytes) -> Bytes:
    """The bits of little-endian words of 32, uint8[..., 4], the lowest first: uint8[..., 32]."""
    return np.unpackbits(words, axis=-1, bitorder="little")


@functools.cache
def formats() -> Mapping[str, Format]:
    """Every known format by name."""
    names = (entry.name for entry in pkgutil.iter_modules(__path__) if not entry.name.startswith("_"))
    found: list[Format] = [importlib.import_module(f"{__name__}.{name}").FORMAT for name in names]
    return {fmt.name: fmt for fmt in sorted(found, key=lambda fmt: fmt.name)}


def format_named(name: str) -> Format:
    """The format called `name`, such as "Q8_0"."""
    try:
        return formats()[name]
    except KeyError:
        raise FormatError(f"unknown weight format {name!r}; known: {', '.join(formats())}") from None


def ggml_formats() -> tuple[str, ...]:
    """The names of those that GGUF files have."""
    return tuple(name for name, fmt in formats().items() if fmt.ggml_type is not None)


def format_of_ggml(ggml_type: int) -> Format:
    """The format that GGUF files number `ggml_type`."""
    for fmt in formats().values():
        if fmt.ggml_type == ggml_type:
            return fmt
    raise FormatError(f"unknown GGML tensor type {ggml_type}; known: {', '.join(ggml_formats())}")
