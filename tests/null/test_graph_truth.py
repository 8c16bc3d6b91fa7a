"""The graph of every fixture, evaluated in numpy with the weights as stored, gives what transformers gives in float32."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from imp_codegen.checkpoint import Checkpoint, open_checkpoint
from imp_codegen.graph import Weight, verify
from imp_codegen.models import load_architecture
from imp_codegen.ops import Sample
from imp_codegen.quant import formats
from imp_codegen.reference import Reference, Weights
from model_checks import FIXTURES, MODELS, kl_divergence


def stored(checkpoint: Checkpoint) -> Weights:
    """The weights as the file's own formats decode them."""

    def rows(weight: Weight, start: int, stop: int) -> np.ndarray:
        fmt = formats()[checkpoint.tensors[weight.name].format]
        return fmt.dequantize(np.ascontiguousarray(checkpoint.rows(weight.name, start, stop)))

    return Weights(rows, lambda weight: False)


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_the_graph_gives_the_truth(architecture: str, quant: str) -> None:
    truth = np.load(FIXTURES / architecture / f"{quant}.npz")
    with closing(open_checkpoint(FIXTURES / architecture / f"{architecture}-{quant}.gguf")) as checkpoint:
        model = load_architecture(checkpoint)
        graph = verify(model.build(model.read_spec(checkpoint)))
        values = Reference(stored(checkpoint), rounded=False).run(graph, truth["prompt_ids"].astype(np.int64))
    last = graph.ops[-1]
    assert isinstance(last, Sample)
    divergence = kl_divergence(truth["logits"], values[last.logits.name])
    assert divergence.max() < 1e-8
