"""How far one model's distributions of the next token are from another's, as llama-perplexity's --kl-divergence says.

Everything is of log-probabilities, natural logarithms, computed in float64 from float32 logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error: the standard deviation of n values over sqrt(n - 1)."""

    value: float
    error: float

    @staticmethod
    def of(values: Doubles) -> Mean:
        """The mean of float64[n], n at least 1."""
        return Mean(float(values.mean()), float(values.std() / np.sqrt(max(1, len(values) - 1))))


@dataclass(frozen=True, slots=True)
class Divergence:
    """A model beside the base that it is compared with, over all scored tokens.

    `perplexity`: the base's. `ratio`: the model's perplexity over it. `kl`: KL(base || model) in nats, of which also
    median, 99th percentile and largest. `same_best`: the share of places at which both hold the same token the
    likeliest. `change` and `rms_change`: of the probability that the text's own token has, model minus base.
    """

    perplexity: Mean
    ratio: Mean
    kl: Mean
    kl_median: float
    kl_99: float
    kl_max: float
    same_best: Mean
    change: Mean
    rms_change: Mean


def log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    """Log-probabilities of each row of logits[n, vocab]: float64."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def perplexity_of(log_probabilities: Doubles) -> Mean:
    """Exp of the mean surprise of tokens with these log-probabilities, its error to first order."""
    surprise = Mean.of(-log_probabilities)
    value = float(np.exp(surprise.value))
    return Mean(value, value * surprise.error)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a few rows of both say of each place: float64[n]; log-probabilities are those of the text's own tokens."""

    base: Doubles
    model: Doubles
    kl: Doubles
    same_best: Doubles

    @staticmethod
    def compare(base: Doubles, model: Doubles, tokens: npt.NDArray[np.int64]) -> Rows:
        """Of log-probabilities [n, vocab] of both; `tokens` [n] come next."""
        places = np.arange(len(tokens))
        kl = (np.exp(base) * (base - model)).sum(axis=1)
        same = (base.argmax(axis=1) == model.argmax(axis=1)).astype(np.float64)
        return Rows(base[places, tokens], model[places, tokens], kl, same)


def divergence(rows: Sequence[Rows]) -> Divergence:
    """All rows together; there is at least one."""
    base, model, kl, same = (
        np.concatenate([getattr(each, name) for each in rows]) for name in ("base", "model", "kl", "same_best")
    )
    ratio = perplexity_of(model - base)
    change = np.exp(model) - np.exp(base)
    squares = Mean.of(np.square(change))
    rms = float(np.sqrt(squares.value))
    median, most, largest = (float(value) for value in np.quantile(kl, (0.5, 0.99, 1)))
    return Divergence(
        perplexity=perplexity_of(base),
        ratio=ratio,
        kl=Mean.of(kl),
        kl_median=median,
        kl_99=most,
        kl_max=largest,
        same_best=Mean.of(same),
        change=Mean.of(change),
        rms_change=Mean(rms, squares.error / (2 * rms) if rms else 0.0),
    )
