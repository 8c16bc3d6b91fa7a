"""divergence: what rounding weights has done to a model's predictions, by the graph in numpy. No kernel is run.

Values are dropped behind their last reader, and matrices are read a few rows at a time, so that a model of any size
takes little memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.graph import Floats, Graph, inputs
from imp_codegen.ops import Sample
from imp_codegen.reference import Reference, Weights


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(truth || found) in nats, the mean over so many tokens, and the share of those that the same best follows."""

    kl: float
    same_best: float
    tokens: int


def divergence(
    graph: Graph, truth: Weights, found: Weights, tokens: NDArray[np.int64], progress: Callable[[int, int], None]
) -> Divergence:
    """Compare what a graph predicts after each of `tokens` with weights `found` and with those of the truth.

    Neither activations nor the cache are rounded. `progress` is told how many operations of all are done.
    """
    count = len(graph.ops)
    exact = _logits(graph, truth, tokens, lambda done: progress(done, 2 * count))
    other = _logits(graph, found, tokens, lambda done: progress(count + done, 2 * count))
    kl = [_divergence(p, q) for p, q in zip(exact, other, strict=True)]
    same = exact.argmax(axis=1) == other.argmax(axis=1)
    return Divergence(float(np.mean(kl)), float(same.mean()), len(tokens))


def _logits(graph: Graph, weights: Weights, tokens: NDArray[np.int64], done: Callable[[int], None]) -> Floats:
    """Those from which each next token would be chosen, float32[tokens, vocabulary]."""
    last = {value.name: at for at, op in enumerate(graph.ops) for value in inputs(op)}
    reference, values = Reference(weights, rounded=False), dict[str, Floats]()
    positions = np.arange(len(tokens))
    for at, op in enumerate(graph.ops):
        if isinstance(op, Sample):
            return values[op.logits.name]
        values[op.out.name] = reference.evaluate(op, values, tokens, positions)
        for value in inputs(op):
            if last[value.name] == at:
                values.pop(value.name, None)
        done(at + 1)
    raise AssertionError("the graph samples nothing")


def _divergence(truth: Floats, found: Floats) -> float:
    p, q = (row.astype(np.float64) - row.max() for row in (truth, found))
    p -= np.log(np.exp(p).sum())
    q -= np.log(np.exp(q).sum())
    return float(np.exp(p) @ (p - q))
