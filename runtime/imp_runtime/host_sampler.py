"""Chooses a token on the host, with the parameters that the sampling kernel does not know, and reports logprobs.

Order: mask, logit bias, penalties, DRY, top-k, locally typical, top-p, min-p, XTC, temperature, draw. This is the
default order of llama.cpp, and the sampling kernel's. Mirostat v2 replaces all from top-k on by temperature, its own
truncation, and draw. Temperature 0 takes the best token after DRY and uses no truncation.

Every filter takes the scores or probabilities of the candidates, float64 [n] in order of token id, and says which stay,
bool [n]; at least one does. Random numbers come from Philox4x64 with key = seed and counter = position << 64 (numpy's
generator increments the low word), as doubles: the first decides the draw, the second whether XTC acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from imp_runtime.sampling import SamplingParams

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_LOG_FLOAT_MAX = 88.7
LONGEST_REPEAT = 1024
"""DRY counts no repetition beyond this many tokens: long before, the penalty excludes the token."""


class HostSampler:
    """The choices of one sequence. `surprise_limit` is Mirostat's state, in bits."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.params = params
        self.seed = seed
        self.surprise_limit = 2 * params.mirostat_tau

    def choose(
        self, logits: npt.NDArray[np.float32], allowed: Bools | None, prompt: Sequence[int], generated: Sequence[int]
    ) -> int:
        """The token that follows `prompt` and `generated`; `logits` float32 [vocab], `allowed` bool [vocab] or None."""
        params = self.params
        scores = logits.astype(np.float64)
        for token, bias in params.logit_bias:
            scores[token] += bias
        scores = penalise(scores, prompt, generated, params)
        if params.dry_multiplier > 0 and params.dry_penalty_last_n != 0:
            scores = dry(scores, _last([*prompt, *generated], params.dry_penalty_last_n), params)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        if params.temperature == 0:
            return int(scores.argmax())
        uniform, xtc_uniform = uniforms(self.seed, len(prompt) + len(generated))
        ids = np.flatnonzero(scores > -np.inf)
        scores = scores[ids]
        if params.mirostat == 2:
            weights = softmax(scores / params.temperature)
            keep = mirostat(weights, self.surprise_limit)
            ids, weights = ids[keep], weights[keep] / weights[keep].sum()
            chosen = draw(weights, uniform)
            error = -math.log2(weights[chosen]) - params.mirostat_tau
            self.surprise_limit -= params.mirostat_eta * error
            return int(ids[chosen])
        for keeps in _filters(params, xtc_uniform):
            keep = keeps(scores)
            ids, scores = ids[keep], scores[keep]
        return int(ids[draw(softmax(scores / params.temperature), uniform)])


def _filters(params: SamplingParams, xtc_uniform: float) -> list[Callable[[Floats], Bools]]:
    """The filters in use, in order; each says which scores stay."""
    filters: list[Callable[[Floats], Bools]] = []
    if params.top_k > 0:
        filters.append(lambda scores: top_k(scores, params.top_k))
    if params.typical_p < 1:
        filters.append(lambda scores: typical(softmax(scores), params.typical_p))
    if params.top_p < 1:
        filters.append(lambda scores: top_p(softmax(scores), params.top_p))
    if params.min_p > 0:
        filters.append(lambda scores: min_p(softmax(scores), params.min_p))
    if xtc_uniform < params.xtc_probability:
        filters.append(lambda scores: xtc(softmax(scores), params.xtc_threshold))
    return filters


def uniforms(seed: int, position: int) -> tuple[float, float]:
    """Two random numbers in [0, 1) that depend on seed and position only."""
    generator = np.random.Generator(np.random.Philox(key=seed % 2**64, counter=position << 64))
    first, second = generator.random(2)
    return float(first), float(second)


def softmax(scores: Floats) -> Floats:
    """Probabilities of scores, float64 [n]."""
    weights = np.exp(scores - scores.max())
    probabilities: Floats = weights / weights.sum()
    return probabilities


def draw(probabilities: Floats, uniform: float) -> int:
    """The index at which the cumulated probabilities pass `uniform`."""
    cumulated = np.cumsum(probabilities)
    return int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right").clip(0, len(cumulated) - 1))


def penalise(scores: Floats, prompt: Sequence[int], generated: Sequence[int], params: SamplingParams) -> Floats:
    """Repetition (Keskar et al. 2019) over the last tokens of both; frequency and presence (OpenAI) of `generated`."""
    scores = scores.copy()
    if params.repetition_penalty != 1 and params.repeat_last_n != 0:
        window = np.unique(np.array(_last([*prompt, *generated], params.repeat_last_n), np.int64))
        before = scores[window]
        scores[window] = np.where(before > 0, before / params.repetition_penalty, before * params.repetition_penalty)
    if generated and (params.frequency_penalty != 0 or params.presence_penalty != 0):
        tokens, times = np.unique(np.array(generated, np.int64), return_counts=True)
        scores[tokens] -= times * params.frequency_penalty + params.presence_penalty
    return scores


def dry(scores: Floats, history: Sequence[int], params: SamplingParams) -> Floats:
    """DRY ("don't repeat yourself", by p-e-w): less for a token that would go on with a repetition in `history`.

    Where the end of the history, n tokens of it, has come before and a token followed it there, that token loses
    multiplier * base ** (n - allowed length), the largest n counting, if n is at least the allowed length. The n tokens
    contain no sequence breaker, and a token that is a breaker by itself loses nothing.
    """
    tokens = np.array(history, np.int64)
    most = min(len(tokens) - 1, LONGEST_REPEAT, _since_breaker(history, params.dry_sequence_breakers))
    if params.dry_base > 1:
        # A larger exponent would leave the range of float32.
        most = min(
            most, params.dry_allowed_length + int(math.log(np.finfo(np.float32).max) / math.log(params.dry_base))
        )
    scores = scores.copy()
    longest: dict[int, int] = {}
    ends = np.arange(len(tokens) - 1)  # where an earlier occurrence may end
    length = 0
    while length < most:
        ends = ends[ends >= length]
        ends = ends[tokens[ends - length] == tokens[-1 - length]]
        if not len(ends):
            break
        length += 1
        if length >= params.dry_allowed_length:
            longest |= dict.fromkeys(tokens[ends + 1].tolist(), length)
    single = {breaker[0] for breaker in params.dry_sequence_breakers if len(breaker) == 1}
    for token, n in longest.items():
        if token not in single:
            scores[token] -= params.dry_multiplier * params.dry_base ** (n - params.dry_allowed_length)
    return scores


def _since_breaker(history: Sequence[int], breakers: Sequence[tuple[int, ...]]) -> int:
    """How many tokens follow the last breaker; all of them without one near."""
    for end in range(len(history), max(0, len(history) - LONGEST_REPEAT), -1):
        for breaker in breakers:
            if breaker and len(breaker) <= end and tuple(history[end - len(breaker) : end]) == breaker:
                return len(history) - end
    return len(history)


def top_k(scores: Floats, k: int) -> Bools:
    """The k largest; of equal ones at the border the first."""
    keep = np.ones(len(scores), np.bool_)
    if k < len(scores):
        border = np.partition(scores, len(scores) - k)[len(scores) - k]
        keep = scores > border
        keep[np.flatnonzero(scores == border)[: k - int(keep.sum())]] = True
    return keep


def typical(probabilities: Floats, mass: float) -> Bools:
    """Locally typical (Meister et al. 2022): those whose surprise is nearest to the entropy, more than `mass` of it."""
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = (probabilities * surprise).sum()
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    cumulated = np.cumsum(probabilities[order])
    return _first(order, int((cumulated <= mass).sum()) + 1, len(probabilities))


def top_p(probabilities: Floats, mass: float) -> Bools:
    """Nucleus (Holtzman et al. 2019): the fewest of the largest that have at least `mass` of the probability."""
    # All below the cut together weigh less than what may be left out, so only the others need sorting.
    candidates = np.flatnonzero(probabilities >= (1 - mass) / len(probabilities))
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    cumulated = np.cumsum(probabilities[order])
    return _first(order, int((cumulated < mass * probabilities.sum()).sum()) + 1, len(probabilities))


def min_p(probabilities: Floats, share: float) -> Bools:
    """Those with at least `share` of the largest probability."""
    keep: Bools = probabilities >= share * probabilities.max()
    return keep


def xtc(probabilities: Floats, threshold: float) -> Bools:
    """Exclude top choices (by p-e-w): of those with at least `threshold`, only the least likely stays."""
    above = np.flatnonzero(probabilities >= threshold)
    keep = np.ones(len(probabilities), np.bool_)
    if len(above) > 1:
        keep[above] = False
        keep[above[probabilities[above].argmin()]] = True
    return keep


def mirostat(probabilities: Floats, surprise_limit: float) -> Bools:
    """Mirostat v2 (Basu et al. 2020): those whose surprise in bits is no more than the limit, or the likeliest."""
    surprise = -np.log2(np.maximum(probabilities, np.finfo(np.float64).tiny))
    keep: Bools = surprise <= surprise_limit
    keep[probabilities.argmax()] = True
    return keep


def logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of the model's own distribution: the log-probability of `token`, and the `count` best tokens with theirs."""
    scores = logits.astype(np.float64)
    peak = scores.max()
    scores -= peak + math.log(np.exp(scores - peak).sum())
    best = np.flatnonzero(top_k(scores, count)) if count else np.zeros(0, np.int64)
    best = best[np.argsort(-scores[best], kind="stable")]
    return float(scores[token]), tuple((int(i), float(scores[i])) for i in best)


def _first(order: npt.NDArray[np.int64], count: int, n: int) -> Bools:
    """The first `count` of `order`, as a choice among n."""
    keep = np.zeros(n, np.bool_)
    keep[order[:count]] = True
    return keep


def _last(tokens: list[int], count: int) -> list[int]:
    """The last `count` tokens; -1: all."""
    return tokens if count < 0 else tokens[max(0, len(tokens) - count) :]
