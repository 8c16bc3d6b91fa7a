"""A checkpoint of which only the heads of its files are here: all that a thin artifact is compiled from.

The files are as long as the real ones, but empty behind their heads, which takes no room on the disk. The few rows that
a reader looks at, such as factors of a rotary embedding, are fetched when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_codegen.checkpoint.contract import CheckpointError, Dialect, TensorInfo, WeightFile, row_range
from imp_codegen.checkpoint.folder import FolderCheckpoint
from imp_codegen.checkpoint.gguf import GgufCheckpoint, holds_head
from imp_codegen.checkpoint.metadata import Metadata
from imp_codegen.checkpoint.safetensors import LONGEST_HEADER

Read = Callable[[str, int, int], bytes]
"""The bytes begin..end of a file, by its name."""

_FIRST_GGUF = 4 << 20  # keys with a vocabulary of 150,000 take 6 MB, those of small ones less than 2
_FIRST_SAFETENSORS = 1 << 16


class HeadCheckpoint:
    """A checkpoint that stands for `inner`, whose files hold nothing behind their heads."""

    __slots__ = ("_inner", "_read", "weight_files")

    def __init__(
        self, inner: GgufCheckpoint | FolderCheckpoint, weight_files: tuple[WeightFile, ...], read: Read
    ) -> None:
        self._inner = inner
        self._read = read
        self.weight_files = weight_files

    @property
    def path(self) -> Path:
        """Where the heads lie."""
        return self._inner.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the heads."""
        return self._inner.files

    @property
    def name(self) -> str:
        """What the model is called."""
        return self._inner.name

    @property
    def dialect(self) -> Dialect:
        """How tensors and keys are called."""
        return self._inner.dialect

    @property
    def metadata(self) -> Metadata:
        """What it says of the model."""
        return self._inner.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by name, in file order."""
        return self._inner.tensors

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Stored bytes of the rows start..stop of a tensor, fetched: uint8[stop - start, row bytes]."""
        tensor = row_range(self.path, self.tensors, name, start, stop)
        row_bytes = tensor.nbytes // tensor.rows
        file = self._inner.file_of(name).name
        raw = self._read(file, tensor.offset + start * row_bytes, tensor.offset + stop * row_bytes)
        return np.frombuffer(raw, np.uint8).reshape(stop - start, row_bytes)

    def text(self, name: str, longest: int) -> bytes | None:
        """The bytes of a text file beside the weights."""
        return self._inner.text(name, longest)

    def close(self) -> None:
        """Release the files."""
        self._inner.close()


def open_heads(folder: Path, files: Sequence[WeightFile], read: Read) -> HeadCheckpoint:
    """Fetch the heads of `files`, all that hold weights, into `folder`, which has a model's texts already, and open it.

    CheckpointError where they are not those of a model.
    """
    for file in files:
        head = _gguf_head(file, read) if file.name.lower().endswith(".gguf") else _safetensors_head(file, read)
        try:
            with (folder / file.name).open("xb") as made:
                made.write(head)
                made.truncate(file.bytes)
        except OSError as error:
            what = f"an empty file of its {file.bytes:,} bytes cannot be made in {folder}"
            raise CheckpointError(f"{file.name}: {what}: {error.strerror or error}") from None
    first = folder / files[0].name
    if first.suffix == ".safetensors":
        return HeadCheckpoint(FolderCheckpoint(folder), tuple(files), read)
    return HeadCheckpoint(GgufCheckpoint(first), tuple(files), read)


def _gguf_head(file: WeightFile, read: Read) -> bytes:
    """At least the head, or as much as imp would read of one."""
    head, size = b"", _FIRST_GGUF
    while True:
        head += read(file.name, len(head), min(size, file.bytes))
        if holds_head(head, file.bytes):
            return head
        size *= 2


def _safetensors_head(file: WeightFile, read: Read) -> bytes:
    """The head; where its length is absurd, what says so."""
    head = read(file.name, 0, min(_FIRST_SAFETENSORS, file.bytes))
    end = 8 + int.from_bytes(head[:8], "little")
    if len(head) < end <= min(file.bytes, LONGEST_HEADER):
        head += read(file.name, len(head), end)
    return head
