"""Checkpoints: an open, memory-mapped model file as metadata and named tensors. Nothing is loaded into memory here."""

from __future__ import annotations

from pathlib import Path

from imp_codegen.checkpoint.contract import Checkpoint, CheckpointError, TensorInfo
from imp_codegen.checkpoint.gguf import GGUF_MAGIC, GgufCheckpoint
from imp_codegen.checkpoint.metadata import Metadata

__all__ = ["Checkpoint", "CheckpointError", "Metadata", "TensorInfo", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open the checkpoint at `path`, in the format that its first bytes name."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic == GGUF_MAGIC:
        return GgufCheckpoint(path)
    if not magic:
        raise CheckpointError(f"{path}: the file is empty; download it again")
    raise CheckpointError(f"{path}: begins with {magic!r}, so it is not a GGUF file (b'GGUF'); imp reads GGUF files")
