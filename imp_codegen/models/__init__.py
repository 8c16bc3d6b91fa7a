"""Architectures: one file each, found by its name. A file offers what `Architecture` says."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol, cast

from imp_codegen.checkpoint import Checkpoint, CheckpointError
from imp_codegen.checkpoint.metadata import Value
from imp_codegen.checkpoint.random import RandomCheckpoint
from imp_codegen.graph import Graph
from imp_codegen.models._source import usual_source
from imp_codegen.quantized import check_method, with_scales
from imp_codegen.sources import Source
from imp_codegen.spec import ModelSpec
from imp_codegen.stored import Stored, open_source

_OTHER_TYPES = {
    "adapter": "an adapter (LoRA), which changes a model",
    "mmproj": "a projector of images or sound, which accompanies a model",
    "imatrix": "an importance matrix, which guides quantisation",
}

# Modules whose architecture has a name that Python does not.
_SPELLED = {"gpt_oss": "gpt-oss"}


class Architecture(Protocol):
    """What a file of this folder offers.

    For folders of Hugging Face also `CLASSES`: the classes of transformers that are this architecture, each with what a
    config.json leaves to it. And where not every weight is a tensor of its usual name, `source(weight, spec, dialect)`:
    where it lies.
    """

    def read_spec(self, checkpoint: Checkpoint) -> ModelSpec:
        """The model's numbers; CheckpointError where the checkpoint lacks one or holds something unsupported."""

    def build(self, spec: ModelSpec) -> Graph:
        """The graph of one step."""


@functools.cache
def architectures() -> tuple[str, ...]:
    """The names of all supported architectures."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(sorted(_SPELLED.get(name, name) for name in found))


@functools.cache
def _classes() -> Mapping[str, tuple[str, Mapping[str, Value]]]:
    """The architecture of every class of transformers that is known, and what its config.json may leave out."""
    classes = {name: getattr(load_named(name), "CLASSES", {}) for name in architectures()}
    return {known: (name, left) for name, of in classes.items() for known, left in of.items()}


def load_architecture(checkpoint: Checkpoint) -> Architecture:
    """The architecture that a checkpoint names, or CheckpointError with those that are supported."""
    metadata = checkpoint.metadata
    if checkpoint.dialect == "hf":
        names = metadata.strings("architectures")
        known = next((name for name in names if name in _classes()), None)
        if known is None:
            raise metadata.wrong("architectures", f"one that imp supports: {', '.join(sorted(_classes()))}")
        name, left_out = _classes()[known]
        metadata.assume(left_out)
        return load_named(name)
    kind = metadata.string("general.type", "model")
    if kind != "model":
        what = _OTHER_TYPES.get(kind, "no model that imp knows")
        raise metadata.wrong("general.type", f"model; this file is {what}")
    name = metadata.string("general.architecture")
    if name not in architectures():
        raise metadata.wrong("general.architecture", f"one that imp supports: {', '.join(architectures())}")
    return load_named(name)


def load_named(name: str) -> Architecture:
    """The architecture called `name`, or CheckpointError."""
    if name not in architectures():
        raise CheckpointError(
            f"the architecture {name!r:.60} is not supported; supported: {', '.join(architectures())}"
        )
    return cast(Architecture, importlib.import_module(f"imp_codegen.models.{name.replace('-', '_')}"))


def sources_of(
    architecture: Architecture, checkpoint: Checkpoint, spec: ModelSpec, graph: Graph
) -> Mapping[str, Source]:
    """Where every weight of a graph lies in a checkpoint; invented weights lie nowhere."""
    if isinstance(checkpoint, RandomCheckpoint):
        return {}
    check_method(checkpoint)
    source = getattr(architecture, "source", usual_source)
    return {name: with_scales(source(name, spec, checkpoint.dialect), checkpoint) for name in graph.weights()}


def weights_of(checkpoint: Checkpoint, graph: Graph, sources: Mapping[str, Source]) -> Mapping[str, Stored]:
    """Every weight of a graph, to be read; CheckpointError where a tensor is missing or cannot be read so."""
    if isinstance(checkpoint, RandomCheckpoint):
        return checkpoint.weights({weight.name: weight.shape for weight in graph.weights().values()})
    return {name: open_source(source, checkpoint) for name, source in sources.items()}
