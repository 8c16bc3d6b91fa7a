"""round_weights: which matrices a model gets in a format of fewer bits than its file has, where somebody asks for that.

Those that tokens are multiplied with: of layers, of experts, of the head, and so the table of embeddings where it is
the head, too. Else the table stays as it is, since a step reads one row of it; so do norms, biases, routers, which are
small and choose, and the matrices of latent attention's heads, whose vectors are not rounded either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.graph import Edges, Graph
from imp_codegen.ops import ExpertLinear, Linear, Route
from imp_codegen.rounding import FLOATS, rounding_named
from imp_codegen.sources import Rounded, Source, spans_of
from imp_codegen.spec import ModelSpec
from imp_runtime.text import LONGEST_NAME


def round_weights(graph: Graph, sources: Mapping[str, Source], to: str) -> Mapping[str, Source]:
    """The same sources, those of matrices that are multiplied rounded as `to` says. ImpError where it says nothing."""
    rounding_named(to)
    names = _multiplied(graph)
    return {name: Rounded(source, to) if name in names else source for name, source in sources.items()}


def _multiplied(graph: Graph) -> set[str]:
    edges = Edges(graph)
    names = set()
    for op in graph.ops:
        match op:
            case Linear(weight=weight) if any(isinstance(reader, Route) for reader in edges.readers(op.out)):
                pass
            case Linear(weight=weight) | ExpertLinear(weight=weight) if weight.rows > 1:
                names.add(weight.name)
    return names


def tensors_rounded(sources: Mapping[str, Source]) -> set[str]:
    """The tensors of a checkpoint that sources round."""
    return {name for source in sources.values() if isinstance(source, Rounded) for name in spans_of(source)}


def history(checkpoint: Checkpoint, sources: Mapping[str, Source]) -> tuple[str, ...]:
    """In which formats what is rounded lies in a checkpoint, most bytes first."""
    count: Counter[str] = Counter()
    for name in tensors_rounded(sources):
        count[checkpoint.tensors[name].format] += checkpoint.tensors[name].nbytes
    return tuple(name for name, _ in sorted(count.items(), key=lambda item: (-item[1], item[0])))


def told(spec: ModelSpec, formats: Sequence[str], to: str) -> tuple[ModelSpec, str]:
    """The model by a name that says how it was rounded, and words for people. `formats`: in which its file has it."""
    words, name = f"rounded by imp from {'+'.join(formats)}", f"-{to.upper()}"
    if again := [name for name in formats if name not in FLOATS]:
        words, name = f"{words}, a second lossy step", f"{name}-from-{'+'.join(again)}"
    return replace(spec, name=spec.name[: LONGEST_NAME - len(name)].rstrip() + name), words
