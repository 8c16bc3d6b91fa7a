"""Checkpoints: an open, memory-mapped model as metadata and named tensors. Nothing is loaded into memory here."""

from __future__ import annotations

from pathlib import Path

from imp_codegen.checkpoint.config import CONFIG
from imp_codegen.checkpoint.contract import Checkpoint, CheckpointError, Dialect, TensorInfo, WeightFile
from imp_codegen.checkpoint.folder import INDEX, FolderCheckpoint
from imp_codegen.checkpoint.gguf import GGUF_MAGIC, GgufCheckpoint
from imp_codegen.checkpoint.metadata import Metadata
from imp_runtime.artifact import is_artifact

__all__ = ["Checkpoint", "CheckpointError", "Dialect", "Metadata", "TensorInfo", "WeightFile", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open the checkpoint at `path`: a GGUF file, or a Hugging Face folder with config.json and safetensors."""
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        if (path / CONFIG).exists():
            return FolderCheckpoint(path)
        raise CheckpointError(f"{path}: is a folder without {CONFIG}; {_advice_for_folder(path)}")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == GGUF_MAGIC:
        return GgufCheckpoint(path)
    if not magic:
        raise CheckpointError(f"{path}: the file is empty; download it again")
    if is_artifact(path):
        raise CheckpointError(f"{path}: is compiled already; imp run and imp serve take it as it is")
    if path.suffix == ".safetensors" or path.name in (CONFIG, INDEX):
        raise CheckpointError(f"{path}: is one file of a model; name the folder that it lies in, with {CONFIG}")
    raise CheckpointError(
        f"{path}: begins with {magic!r}, so it is not a GGUF file (b'GGUF'); imp reads GGUF files, and folders with "
        f"{CONFIG} and safetensors"
    )


def _advice_for_folder(path: Path) -> str:
    """What to do with a folder that is no model."""
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files:
        return f"name one of its files: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}"
    return f"name a GGUF file, or a folder with {CONFIG} and safetensors"
