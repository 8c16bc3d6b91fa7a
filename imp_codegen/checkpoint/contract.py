"""What every checkpoint offers, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_runtime.errors import ImpError

if TYPE_CHECKING:
    from imp_codegen.checkpoint.metadata import Metadata


Dialect = Literal["gguf", "hf"]
"""Whose names a checkpoint has for its tensors and keys: llama.cpp's in GGUF files, or transformers' in folders."""


class CheckpointError(ImpError):
    """The file cannot be read, is damaged, or holds something that imp does not support."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that holds weights; `sha256` of its content in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A stored tensor: shape in numpy order (rows, columns), storage format, and where its bytes lie in the file."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """Number of rows, all leading dimensions together; a 1-D tensor is one row."""
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows


class Checkpoint(Protocol):
    """An open model."""

    @property
    def path(self) -> Path:
        """The file or folder, for error messages."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its weights."""

    @property
    def name(self) -> str:
        """What the model is called, in its maker's words."""

    @property
    def dialect(self) -> Dialect:
        """How tensors and keys are called."""

    @property
    def metadata(self) -> Metadata:
        """What it says of the model: GGUF's keys, or config.json."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by name, in file order."""

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of the rows start..stop of a tensor, uint8[stop - start, row bytes], read-only.

        Raises CheckpointError if there is no tensor of this name, or not that many rows.
        """

    def text(self, name: str, longest: int) -> bytes | None:
        """The bytes of a text file beside the weights, at most `longest`; None if there is none of that name."""

    def close(self) -> None:
        """Release the file. Views handed out before stay valid."""


def row_range(path: Path, tensors: Mapping[str, TensorInfo], name: str, start: int, stop: int) -> TensorInfo:
    """The tensor called `name`, known to have the rows start..stop."""
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{path}: has no tensor {name!r}; it is incomplete or of another architecture")
    if not 0 <= start <= stop <= tensor.rows:
        raise CheckpointError(f"{path}: tensor {name!r} has {tensor.rows} rows, not {start}..{stop}")
    return tensor
