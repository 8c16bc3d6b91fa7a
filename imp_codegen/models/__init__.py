"""Architectures: one file each, found by its name. A file offers read_spec(checkpoint) and build(spec)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.graph import Graph
from imp_codegen.spec import ModelSpec

_OTHER_TYPES = {
    "adapter": "an adapter (LoRA), which changes a model",
    "mmproj": "a projector of images or sound, which accompanies a model",
    "imatrix": "an importance matrix, which guides quantisation",
}


class Architecture(Protocol):
    """What a file of this folder offers."""

    def read_spec(self, checkpoint: Checkpoint) -> ModelSpec:
        """The model's numbers; CheckpointError where the file lacks one or holds something unsupported."""

    def build(self, spec: ModelSpec) -> Graph:
        """The graph of one step."""


def architectures() -> tuple[str, ...]:
    """The names of all supported architectures."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_architecture(checkpoint: Checkpoint) -> Architecture:
    """The architecture that a checkpoint names, or CheckpointError with those that are supported."""
    kind = checkpoint.metadata.string("general.type", "model")
    if kind != "model":
        what = _OTHER_TYPES.get(kind, "no model that imp knows")
        raise checkpoint.metadata.wrong("general.type", f"model; this file is {what}")
    name = checkpoint.metadata.string("general.architecture")
    if name not in architectures():
        raise checkpoint.metadata.wrong("general.architecture", f"one that imp supports: {', '.join(architectures())}")
    return load_named(name)


def load_named(name: str) -> Architecture:
    """The architecture called `name`, or CheckpointError."""
    if name not in architectures():
        raise CheckpointError(
            f"the architecture {name!r:.60} is not supported; supported: {', '.join(architectures())}"
        )
    return cast(Architecture, importlib.import_module(f"imp_codegen.models.{name}"))
