"""Host sampling of a whole vocabulary, token by token against the definitions: everything sorted, nothing in place."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from imp_runtime.host_sampler import HostSampler, race, xtc_acts
from imp_runtime.sampling import SamplingParams

VOCAB = 30_000
KNOBS: list[dict[str, float]] = [
    {"typical_p": 0.95},
    {"typical_p": 0.2},
    {"typical_p": 0.999},
    {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    {"xtc_probability": 0.5, "xtc_threshold": 0.0},
    {"top_p": 0.9, "xtc_probability": 0.5},
    {"top_p": 0.999, "typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.02},
    {"top_k": 50, "typical_p": 0.9, "min_p": 0.01},
    {"top_k": 20_000, "min_p": 0.0001, "xtc_probability": 1.0},
    {"dry_multiplier": 0.8},
    {"repetition_penalty": 1.3, "repeat_last_n": 30, "frequency_penalty": 0.5},
]


class Plain:
    """As the papers have it. Compressed arrays, stable sorts of all candidates, probabilities anew for every filter."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.params, self.seed, self.limit = params, seed, 2 * params.mirostat_tau

    def choose(self, logits: np.ndarray, allowed: np.ndarray | None, prompt: list[int], generated: list[int]) -> int:
        params, history = self.params, prompt + generated
        scores = logits.astype(np.float64)
        for token, bias in params.logit_bias:
            scores[token] += bias
        for token in set(history[-params.repeat_last_n :] if params.repeat_last_n > 0 else history):
            factor = params.repetition_penalty
            scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
        for token in generated:
            scores[token] -= params.frequency_penalty
        if params.dry_multiplier:
            longest: dict[int, int] = {}
            for end in range(1, len(history)):
                n = 0
                while n < end and history[end - 1 - n] == history[-1 - n]:
                    n += 1
                longest[history[end]] = max(longest.get(history[end], 0), n)
            for token, n in longest.items():
                if n >= params.dry_allowed_length:
                    scores[token] -= params.dry_multiplier * params.dry_base ** (n - params.dry_allowed_length)
        ids = np.flatnonzero(allowed) if allowed is not None else np.arange(len(scores))
        scores = scores[ids]
        if params.mirostat:
            p = self._p(scores / params.temperature)
            stay = np.flatnonzero(-np.log2(np.maximum(p, 1e-300)) <= self.limit)
            stay = stay if len(stay) else np.array([p.argmax()])
            ids, p = ids[stay], p[stay] / p[stay].sum()
            token = race(p, ids, self.seed, len(history))
            self.limit -= params.mirostat_eta * (-math.log2(p[ids == token][0]) - params.mirostat_tau)
            return token
        for order in (self._top_k, self._typical, self._top_p, self._min_p):
            stay = np.sort(order(scores))
            ids, scores = ids[stay], scores[stay]
        p = self._p(scores)
        above = np.flatnonzero(p >= max(params.xtc_threshold, p.max() * math.exp(-32)))
        if xtc_acts(self.seed, len(history), params.xtc_probability) and len(above) > 1:
            gone = np.delete(above, p[above].argmin())
            ids, scores = np.delete(ids, gone), np.delete(scores, gone)
        p = self._p(scores / params.temperature)
        return race(p, ids, self.seed, len(history))

    @staticmethod
    def _p(scores: np.ndarray) -> np.ndarray:
        weights = np.exp(scores - scores.max())
        p: np.ndarray = weights / weights.sum()
        return p

    def _top_k(self, scores: np.ndarray) -> np.ndarray:
        return np.argsort(-scores, kind="stable")[: self.params.top_k or None]

    def _typical(self, scores: np.ndarray) -> np.ndarray:
        p = self._p(scores)
        order = np.argsort(np.abs(-np.log(p) + (p * np.log(p)).sum()), kind="stable")
        return (
            order if self.params.typical_p == 1 else order[: (np.cumsum(p[order]) <= self.params.typical_p).sum() + 1]
        )

    def _top_p(self, scores: np.ndarray) -> np.ndarray:
        p = self._p(scores)
        order = np.argsort(-p, kind="stable")
        return order if self.params.top_p == 1 else order[: (np.cumsum(p[order]) < self.params.top_p).sum() + 1]

    def _min_p(self, scores: np.ndarray) -> np.ndarray:
        p = self._p(scores)
        return np.flatnonzero(p >= self.params.min_p * p.max())


def rows(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Logits that are nearly flat, or those of a model that knows what comes."""
    logits = rng.standard_normal(VOCAB) * (1.0 if shape == "flat" else 2.5)
    logits[rng.permutation(VOCAB)[:40]] += 0 if shape == "flat" else rng.exponential(5, 40)
    return logits.astype(np.float32)


@pytest.mark.parametrize("knobs", [*KNOBS, {"mirostat": 2}, {"mirostat": 2, "mirostat_tau": 12.0}], ids=str)
@pytest.mark.parametrize("shape", ["flat", "peaked"])
def test_the_same_tokens_as_by_definition(knobs: dict[str, float], shape: str) -> None:
    rng = np.random.default_rng(5)
    for temperature in (1.0, 0.7, 1.8, 0.005):
        params = SamplingParams(temperature=temperature, **knobs)  # type: ignore[arg-type]
        quick, plain = HostSampler(params, 3), Plain(params, 3)
        prompt, generated = [7, 8, 9, 7, 8], [9, 7, 8]
        for step in range(12):
            logits = rows(shape, rng)
            allowed = rng.random(VOCAB) < 0.5 if step % 3 == 2 else None
            logits[generated[-3:]] += 9  # so that something is there to be repeated
            token = quick.choose(logits, allowed, prompt, generated)
            assert token == plain.choose(logits, allowed, prompt, list(generated))
            generated.append(token)


def test_a_long_repetition_is_found_fast() -> None:
    """What DRY is for; 20,000 times the same token must not take a step's time."""
    params = SamplingParams(dry_multiplier=0.8, dry_sequence_breakers=((1,), (2, 3)))
    sampler, logits = HostSampler(params, 0), np.zeros(100, np.float32)
    history = [5] * 20_000
    sampler.choose(logits, None, history, [])
    began = time.perf_counter()
    for step in range(1, 4):
        assert sampler.choose(logits, None, history, [5] * step) == 0
    assert time.perf_counter() - began < 0.3
