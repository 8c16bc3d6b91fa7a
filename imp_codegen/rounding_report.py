"""What rounding a model's matrices has saved, and what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imp_codegen.checkpoint import Checkpoint
from imp_codegen.divergence import Divergence, divergence
from imp_codegen.graph import Graph
from imp_codegen.passes.round_weights import tensors_rounded
from imp_codegen.reference import Weights, stored_weights
from imp_codegen.rounding import rounding_named
from imp_codegen.sources import Rounded, Source
from imp_codegen.stored import open_source
from imp_runtime.plan import Plane

COMPARED_TOKENS = 64  # two passes of an 8B over them are two teraflops, about a minute on a few cores


@dataclass(frozen=True, slots=True)
class RoundingReport:
    """What matrices were rounded to, bytes of their tensors and planes; no `divergence` where it was not measured."""

    formats: str
    bytes_before: int
    bytes_after: int
    divergence: Divergence | None


def rounding_report(
    checkpoint: Checkpoint,
    graph: Graph,
    sources: Mapping[str, Source],
    planes: Sequence[Plane],
    found: Weights | None,
    tokens: Sequence[int],
    progress: Callable[[int, int], None],
) -> RoundingReport:
    """Compare `found`, weights of the sources, with what a checkpoint has in their place; None to leave that out."""
    rounded = {name: source for name, source in sources.items() if isinstance(source, Rounded)}
    formats = "+".join(sorted({rounding_named(source.to).format for source in rounded.values()}))
    before = sum(checkpoint.tensors[name].nbytes for name in tensors_rounded(sources))
    after = sum(plane.nbytes for plane in planes if plane.name in rounded)
    if found is None:
        return RoundingReport(formats, before, after, None)
    plain = {name: source.source if isinstance(source, Rounded) else source for name, source in sources.items()}
    truth = stored_weights({name: open_source(source, checkpoint) for name, source in plain.items()})
    return RoundingReport(formats, before, after, divergence(graph, truth, found, np.array(tokens), progress))
