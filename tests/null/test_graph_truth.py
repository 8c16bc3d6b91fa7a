"""The graph of every fixture, in numpy with the weights as stored, gives what transformers gives in float32."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.graph import verify
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.ops import Sample
from imp_codegen.reference import Reference, stored_weights
from model_checks import FIXTURES, MODELS, kl_divergence, source_of


@pytest.mark.parametrize(("architecture", "quant"), MODELS)
def test_the_graph_gives_the_truth(architecture: str, quant: str) -> None:
    truth = np.load(FIXTURES / architecture / f"{quant}.npz")
    with closing(open_checkpoint(source_of(architecture, quant))) as checkpoint:
        model = load_architecture(checkpoint)
        spec = model.read_spec(checkpoint)
        graph = verify(model.build(spec))
        weights = weights_of(checkpoint, graph, sources_of(model, checkpoint, spec, graph))
        values = Reference(stored_weights(weights), rounded=False).run(graph, truth["prompt_ids"].astype(np.int64))
    last = graph.ops[-1]
    assert isinstance(last, Sample)
    divergence = kl_divergence(truth["logits"], values[last.logits.name])
    assert divergence.max() < 1e-8


def test_gates_beyond_the_clamp() -> None:
    """gpt-oss with experts of floats, which transformers stores transposed, and gates that reach 7."""
    folder = FIXTURES / "clamped" / "gpt_oss"
    truth = np.load(folder / "truth.npz")
    with closing(open_checkpoint(folder)) as checkpoint:
        model = load_architecture(checkpoint)
        spec = model.read_spec(checkpoint)
        graph = verify(model.build(spec))
        weights = weights_of(checkpoint, graph, sources_of(model, checkpoint, spec, graph))
        values = Reference(stored_weights(weights), rounded=False).run(graph, truth["prompt_ids"].astype(np.int64))
    assert max(np.abs(values[f"layers.{layer}.gate"]).max() for layer in (0, 1)) > 7
    assert kl_divergence(truth["logits"], values["logits"]).max() < 1e-8


@pytest.mark.parametrize(("context", "part"), [(64, ""), (65, "long_"), (2048, "long_")])
def test_the_longest_sequence_decides_about_longrope(context: int, part: str) -> None:
    """transformers changes over at 64 tokens: its logits of 48 tokens are of short factors, of 96 of long ones."""
    folder = FIXTURES / "longrope" / "phi3"
    truth = np.load(folder / "truth.npz")
    with closing(open_checkpoint(folder)) as checkpoint:
        model = load_architecture(checkpoint)
        spec = dataclasses.replace(model.read_spec(checkpoint), context=context)
        graph = verify(model.build(spec))
        weights = weights_of(checkpoint, graph, sources_of(model, checkpoint, spec, graph))
        prompt = truth[f"{part}prompt_ids"].astype(np.int64)
        values = Reference(stored_weights(weights), rounded=False).run(graph, prompt)
    assert kl_divergence(truth[f"{part}logits"], values["logits"]).max() < 1e-8
