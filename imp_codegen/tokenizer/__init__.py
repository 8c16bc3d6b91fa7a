"""Tokenizers as JSON of the `tokenizers` library: built when a model is compiled, and stored in its artifact."""

from __future__ import annotations

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.tokenizer.files import TokenizerFiles
from imp_codegen.tokenizer.folder import from_folder
from imp_codegen.tokenizer.gguf import from_keys

__all__ = ["TokenizerFiles", "build_tokenizer"]


def build_tokenizer(checkpoint: Checkpoint) -> TokenizerFiles:
    """The tokenizer of a checkpoint. CheckpointError if what there is of it is incomplete or contradictory."""
    return from_keys(checkpoint.metadata) if checkpoint.dialect == "gguf" else from_folder(checkpoint)
