"""The graph of every fixture, in numpy with the weights as stored, gives what transformers gives in float32."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np
import pytest

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.graph import Weight, verify
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.ops import Sample
from imp_codegen.reference import Reference, Weights
from imp_codegen.sources import Stored
from model_checks import FIXTURES, MODELS, kl_divergence, source_of


def floats(stored: Mapping[str, Stored]) -> Weights:
    """The weights as the file's own formats decode them."""

    def rows(weight: Weight, start: int, stop: int) -> np.ndarray:
        source = stored[weight.name]
        return source.format.dequantize(np.ascontiguousarray(source.rows(start, stop)))

    return Weights(rows, lambda weight: False)


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_the_graph_gives_the_truth(architecture: str, quant: str) -> None:
    truth = np.load(FIXTURES / architecture / f"{quant}.npz")
    with closing(open_checkpoint(source_of(architecture, quant))) as checkpoint:
        model = load_architecture(checkpoint)
        spec = model.read_spec(checkpoint)
        graph = verify(model.build(spec))
        weights = weights_of(checkpoint, graph, sources_of(model, checkpoint, spec, graph))
        values = Reference(floats(weights), rounded=False).run(graph, truth["prompt_ids"].astype(np.int64))
    last = graph.ops[-1]
    assert isinstance(last, Sample)
    divergence = kl_divergence(truth["logits"], values[last.logits.name])
    assert divergence.max() < 1e-8
