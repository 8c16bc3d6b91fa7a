"""Checkpoints: an open, memory-mapped model file as metadata and named tensors. Nothing is loaded into memory here."""

from __future__ import annotations

from pathlib import Path

from imp_codegen.checkpoint.contract import Checkpoint, CheckpointError, TensorInfo
from imp_codegen.checkpoint.gguf import GGUF_MAGIC, GgufCheckpoint
from imp_codegen.checkpoint.metadata import Metadata
from imp_runtime.artifact import is_artifact

__all__ = ["Checkpoint", "CheckpointError", "Metadata", "TensorInfo", "open_checkpoint"]


_CONVERT = "imp reads GGUF files: convert the model with convert_hf_to_gguf.py of llama.cpp"


def open_checkpoint(path: Path) -> Checkpoint:
    """Open the checkpoint at `path`, in the format that its first bytes name."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; {_advice_for_folder(path)}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic == GGUF_MAGIC:
        return GgufCheckpoint(path)
    if not magic:
        raise CheckpointError(f"{path}: the file is empty; download it again")
    if is_artifact(path):
        raise CheckpointError(f"{path}: is compiled already; imp run and imp serve take it as it is")
    advice = _CONVERT if path.suffix == ".safetensors" else "imp reads GGUF files"
    raise CheckpointError(f"{path}: begins with {magic!r}, so it is not a GGUF file (b'GGUF'); {advice}")


def _advice_for_folder(path: Path) -> str:
    """What to do with a folder where a file is wanted."""
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files:
        return f"name one of its files: {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}"
    return _CONVERT if (path / "config.json").is_file() else "name a GGUF file"
