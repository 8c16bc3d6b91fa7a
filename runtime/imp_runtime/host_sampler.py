"""Chooses a token on the host, where a request asks which probabilities it was drawn from, and reports logprobs.

Order: mask, logit bias, penalties, DRY, top-k, locally typical, top-p, min-p, XTC, temperature, draw. This is the
default order of llama.cpp, and the sampling kernels'. Mirostat v2 replaces all from top-k on by temperature, its own
truncation, and draw. Temperature 0 takes the best token after DRY and uses no truncation.

Every filter takes the probabilities of the candidates, float64 [n] in order of token id, and says which stay, bool [n];
at least one does, and equal ones stay together. One that has been excluded has probability 0. The random numbers are
the kernels' (stage/sampling.h), so that the token is theirs, too, but for the rounding of float32.

A vocabulary has 150,000 tokens, and the device waits meanwhile: passes over all are few, in place where they can be
(fresh memory costs as much as the arithmetic), and nothing sorts them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from imp_runtime.plan import LONGEST_REPEAT
from imp_runtime.sampling import SamplingParams

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.int64]
_FEW = 2048  # values that are sorted as they are
_BINS_PER_NAT = 64
_BINS = 32 * _BINS_PER_NAT
_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


class HostSampler:
    """The choices of one sequence. `surprise_limit` is Mirostat's state, in bits."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.params = params
        self.seed = seed
        self.surprise_limit = 2 * params.mirostat_tau
        self._scores = self._weights = np.zeros(0)
        self._history = np.zeros(0, np.int64)
        self._known = 0
        self._drawn: tuple[Tokens | None, Floats] | None = None  # candidates (None: all), their weights; None: greedy

    def choose(
        self, logits: npt.NDArray[np.float32], allowed: Bools | None, prompt: Sequence[int], generated: Sequence[int]
    ) -> int:
        """The token that follows `prompt` and `generated`, which only grows from call to call.

        `logits` float32 [vocab], `allowed` bool [vocab] or None for all.
        """
        params = self.params
        if len(self._scores) != len(logits):
            self._scores, self._weights = np.empty(len(logits)), np.empty(len(logits))
        scores, weights = self._scores, self._weights
        scores[:] = logits
        for token, bias in params.logit_bias:
            scores[token] += bias
        history = self._tokens(prompt, generated)
        penalise(scores, history, len(prompt), params)
        if params.repeats:
            dry(scores, _last(history, params.dry_penalty_last_n), params)
        if allowed is not None:
            scores[~allowed] = -np.inf
        if params.temperature == 0:
            self._drawn = None
            return int(scores.argmax())
        if params.mirostat == 2:
            scores /= params.temperature
            softmax(scores, weights)
            weights *= mirostat(weights, self.surprise_limit)
            chosen = race(weights, None, self.seed, len(history))
            self._drawn = None, weights
            error = -math.log2(weights[chosen] / weights.sum()) - params.mirostat_tau
            self.surprise_limit -= params.mirostat_eta * error
            return chosen
        ids = None  # of the candidates, once they are few
        softmax(scores, weights)
        filters = _filters(params, xtc=xtc_acts(self.seed, len(history), params.xtc_probability))
        for choice in filters:
            keep = choice(weights)
            if np.count_nonzero(keep) > len(keep) // 8:
                weights *= keep
            else:
                ids = np.flatnonzero(keep) if ids is None else ids[keep]
                scores, weights = scores[keep], weights[keep]
            weights /= weights.sum()
        if params.temperature != 1:
            if filters:
                scores[weights == 0] = -np.inf
            scores /= params.temperature
            softmax(scores, weights)
        self._drawn = ids, weights
        return race(weights, ids, self.seed, len(history))

    def drawn_from(self, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
        """Of the distribution that `token`, the last choice, was drawn from: its log-probability, and the best's.

        At most `count` of them, best first; those that could not be drawn are left out.
        """
        if self._drawn is None:
            return 0.0, ((token, 0.0),)[:count]
        ids, weights = self._drawn
        possible = np.flatnonzero(weights)
        probabilities = weights[possible] / weights.sum()
        tokens = possible if ids is None else ids[possible]
        order = np.lexsort((tokens, -probabilities))[:count]
        own = float(probabilities[tokens == token][0])
        return math.log(own), tuple((int(tokens[i]), math.log(probabilities[i])) for i in order)

    def _tokens(self, prompt: Sequence[int], generated: Sequence[int]) -> Tokens:
        """Both as one array, of which only what is new has to be converted."""
        count = len(prompt) + len(generated)
        if count > len(self._history):
            self._history = np.resize(self._history, 2 * count)
        if self._known < len(prompt):
            self._history[: len(prompt)] = prompt
            self._known = len(prompt)
        self._history[self._known : count] = generated[self._known - len(prompt) :]
        self._known = count
        return self._history[:count]


def _filters(params: SamplingParams, *, xtc: bool) -> list[Callable[[Floats], Bools]]:
    """The filters in use, in order; each says which of the candidates stay, by their probabilities."""
    filters: list[Callable[[Floats], Bools]] = []
    if params.top_k > 0:
        filters.append(lambda probabilities: top_k(probabilities, params.top_k))
    if params.typical_p < 1:
        filters.append(lambda probabilities: typical(probabilities, params.typical_p))
    if params.top_p < 1:
        filters.append(lambda probabilities: top_p(probabilities, params.top_p))
    if params.min_p > 0:
        filters.append(lambda probabilities: min_p(probabilities, params.min_p))
    if xtc:
        filters.append(lambda probabilities: exclude_top(probabilities, params.xtc_threshold))
    return filters


def _mix64(z: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _WORD
    return z ^ z >> 31


def _mix32(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The finaliser of MurmurHash3 (Appleby), in place."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return h


def _key(seed: int, position: int) -> int:
    return _mix64(_mix64(seed + _GOLDEN & _WORD) + position & _WORD)


def xtc_acts(seed: int, position: int, probability: float) -> bool:
    """Whether XTC acts on the token at `position`."""
    return _mix64(_key(seed, position) + _GOLDEN & _WORD) >> 32 < int(float(np.float32(probability)) * 2**32)


def race(weights: Floats, ids: Tokens | None, seed: int, position: int) -> int:
    """The token that is drawn, one of `ids` (None: all), by weight: the one with the smallest E / weight, E ~ Exp(1).

    E comes from a hash of seed, position and token.
    """
    key = _key(seed, position)
    words = (np.arange(len(weights)) if ids is None else ids).astype(np.uint32)
    words ^= np.uint32(key % 2**32)
    words = _mix32(_mix32(words) + np.uint32(key >> 32))
    exponential = -np.log1p((words + 0.5) * -(2.0**-32))
    chosen = int((weights / exponential).argmax())
    return chosen if ids is None else int(ids[chosen])


def softmax(scores: Floats, out: Floats) -> None:
    """Probabilities of scores, float64 [n]."""
    np.subtract(scores, scores.max(), out=out)
    np.exp(out, out=out)
    out /= out.sum()


def penalise(scores: Floats, history: Tokens, prompt: int, params: SamplingParams) -> None:
    """Repetition (Keskar et al. 2019) over the last tokens; frequency and presence (OpenAI) of what was generated.

    `history` begins with `prompt` tokens of prompt. Changes `scores`.
    """
    if params.repetition_penalty != 1 and params.repeat_last_n != 0:
        window = np.unique(_last(history, params.repeat_last_n))
        before = scores[window]
        scores[window] = np.where(before > 0, before / params.repetition_penalty, before * params.repetition_penalty)
    if len(history) > prompt and (params.frequency_penalty != 0 or params.presence_penalty != 0):
        tokens, times = np.unique(history[prompt:], return_counts=True)
        scores[tokens] -= times * params.frequency_penalty + params.presence_penalty


def dry(scores: Floats, history: Tokens, params: SamplingParams) -> None:
    """DRY ("don't repeat yourself", by p-e-w): less for a token that would go on with a repetition in `history`.

    Where the end of the history, n tokens of it, has come before and a token followed it there, that token loses
    multiplier * base ** (n - allowed length), the largest n counting, if n is at least the allowed length. The n tokens
    contain no sequence breaker, and a token that is a breaker by itself loses nothing. Changes `scores`.
    """
    allowed = params.dry_allowed_length
    most = min(len(history) - 1, params.dry_longest, _since_breaker(history, params.dry_sequence_breakers))
    if most < allowed:
        return
    ends = np.flatnonzero(history[:-1] == history[-1])  # where an earlier occurrence ends
    longest = np.zeros(len(history), np.int64)
    for length in range(1, most + 1):
        longest[ends] = length
        ends = ends[ends >= length]
        ends = ends[history[ends - length] == history[-1 - length]]
        if not len(ends):
            break
    ends = np.flatnonzero(longest >= allowed)
    tokens, place = np.unique(history[ends + 1], return_inverse=True)
    lengths = np.zeros(len(tokens), np.int64)
    np.maximum.at(lengths, place, longest[ends])
    single = [breaker[0] for breaker in params.dry_sequence_breakers if len(breaker) == 1]
    losses = params.dry_multiplier * params.dry_base ** (lengths - allowed).astype(np.float64)
    scores[tokens] -= np.where(np.isin(tokens, single), 0, losses)


def _since_breaker(history: Tokens, breakers: Sequence[tuple[int, ...]]) -> int:
    """How many tokens follow the last breaker; all of them without one near."""
    since = len(history)
    for breaker in breakers:
        near = history[-LONGEST_REPEAT - len(breaker) + 1 :]
        starts = len(near) - len(breaker) + 1
        if not breaker or starts < 1:
            continue
        hits = np.flatnonzero(np.all([near[i : i + starts] == token for i, token in enumerate(breaker)], axis=0))
        if len(hits):
            since = min(since, starts - 1 - int(hits[-1]))
    return since


def top_k(scores: Floats, k: int) -> Bools:
    """The k largest, and those that equal the last of these."""
    if k >= len(scores):
        return np.ones(len(scores), np.bool_)
    keep: Bools = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
    return keep


def typical(probabilities: Floats, mass: float) -> Bools:
    """Locally typical (Meister et al. 2022): those whose surprise is nearest to the entropy, more than `mass` of it."""
    distance = _surprise(probabilities)
    distance -= np.einsum("i,i->", probabilities, distance)  # not `@`: threads of a BLAS take longer to wake
    np.abs(distance, out=distance)
    return _nearest(distance, probabilities, mass, "right")


def top_p(probabilities: Floats, mass: float) -> Bools:
    """Nucleus (Holtzman et al. 2019): the fewest of the largest that have at least `mass` of the probability."""
    # All below the cut together weigh less than what may be left out.
    keep: Bools = probabilities >= (1 - mass) / len(probabilities)
    candidates = np.flatnonzero(keep)
    weights = probabilities[candidates]
    keep[candidates] = _nearest(_surprise(weights), weights, mass * probabilities.sum(), "left")
    return keep


def min_p(probabilities: Floats, share: float) -> Bools:
    """Those with at least `share` of the largest probability."""
    keep: Bools = probabilities >= share * probabilities.max()
    return keep


def exclude_top(probabilities: Floats, threshold: float) -> Bools:
    """Exclude top choices (by p-e-w): of those with at least `threshold`, only the least likely stays.

    What is 32 nats below the best has no probability here.
    """
    above = np.flatnonzero(probabilities >= max(threshold, probabilities.max() * math.exp(-32)))
    keep = np.ones(len(probabilities), np.bool_)
    if len(above) > 1:
        keep[above] = False
        keep[above[probabilities[above].argmin()]] = True
    return keep


def mirostat(probabilities: Floats, surprise_limit: float) -> Bools:
    """Mirostat v2 (Basu et al. 2020): those whose surprise in bits is no more than the limit, or the likeliest."""
    keep: Bools = probabilities >= min(2.0 ** min(-surprise_limit, 1.0), probabilities.max())
    return keep


def _surprise(probabilities: Floats) -> Floats:
    """In nats; that of 0 is very large."""
    surprise: Floats = np.maximum(probabilities, np.finfo(np.float64).tiny)
    np.log(surprise, out=surprise)
    return np.negative(surprise, out=surprise)


def _nearest(distance: Floats, weights: Floats, mass: float, side: Literal["left", "right"]) -> Bools:
    """The nearest, in order of `distance` (in nats), until their weights reach `mass`, and what equals the last one.

    `side` "left": at least `mass`; "right": more than it. Only the bin of distances in which that happens is sorted.
    """
    if len(distance) <= _FEW:
        inside, keep, before = np.arange(len(distance)), np.zeros(len(distance), np.bool_), 0.0
    else:
        scaled = (distance - distance.min()).astype(np.float32)
        scaled *= _BINS_PER_NAT
        bins = np.minimum(scaled, _BINS - 1, out=scaled).astype(np.intp)
        sums = np.cumsum(np.bincount(bins, weights, _BINS))
        border = min(int(np.searchsorted(sums, mass, side=side)), _BINS - 1)
        inside, keep = np.flatnonzero(bins == border), bins < border
        before = float(sums[border - 1]) if border else 0.0
    order = inside[np.argsort(distance[inside], kind="stable")]
    cumulated = before + np.cumsum(weights[order])
    last = order[min(int(np.searchsorted(cumulated, mass, side=side)), len(order) - 1)]
    keep[inside[distance[inside] <= distance[last]]] = True
    return keep


def logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of the model's own distribution: the log-probability of `token`, and the `count` best tokens with theirs."""
    scores = logits.astype(np.float64)
    peak = scores.max()
    scores -= peak + math.log(np.exp(scores - peak).sum())
    best = np.flatnonzero(top_k(scores, count)) if count else np.zeros(0, np.int64)
    best = best[np.argsort(-scores[best], kind="stable")][:count]
    return float(scores[token]), tuple((int(i), float(scores[i])) for i in best)


def top_logprobs(entry: npt.NDArray[np.void], count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The same from what the device has gathered, TOP_DTYPE scalar array, for `count` up to TOP_LOGPROBS."""
    norm = float(entry["peak"]) + math.log(int(entry["mass"]) / 2**32)
    listed = entry["listed"][: int(entry["count"])]
    best = np.lexsort((listed["token"], -listed["logit"]))[:count]
    top = zip(listed["token"][best].tolist(), listed["logit"][best].tolist(), strict=True)
    return float(entry["chosen"]) - norm, tuple((token, logit - norm) for token, logit in top)


def _last(tokens: Tokens, count: int) -> Tokens:
    """The last `count` tokens; -1: all."""
    return tokens if count < 0 else tokens[max(0, len(tokens) - count) :]
