"""Host sampling against expectations worked out by hand, or written another way."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imp_runtime.constraint import pack_bits, unpack_bits
from imp_runtime.host_sampler import (
    HostSampler,
    dry,
    exclude_top,
    logprobs,
    min_p,
    mirostat,
    penalise,
    race,
    top_k,
    top_p,
    typical,
    xtc_acts,
)
from imp_runtime.sampling import SamplingParams

HALVES = np.array([0.25, 0.5, 0.125, 0.0625, 0.0625])


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def kept(keep: np.ndarray) -> list[int]:
    return np.flatnonzero(keep).tolist()


def test_filters_by_hand() -> None:
    assert kept(top_k(np.log(HALVES), 2)) == [0, 1]
    assert kept(top_k(np.log(HALVES), 4)) == [0, 1, 2, 3, 4], "equals stay together"
    assert kept(top_k(np.log(HALVES), 9)) == [0, 1, 2, 3, 4]
    assert kept(top_p(HALVES, 0.5)) == [1]
    assert kept(top_p(HALVES, 0.51)) == [0, 1]
    assert kept(top_p(HALVES, 0.0)) == [1]
    assert kept(top_p(HALVES, 0.95)) == [0, 1, 2, 3, 4]
    assert kept(min_p(HALVES, 0.25)) == [0, 1, 2]
    assert kept(min_p(HALVES, 1.0)) == [1]
    # Entropy 1.875 bits; surprises 2, 1, 3, 4, 4: distances 0.125, 0.875, 1.125, 2.125, 2.125.
    assert kept(typical(HALVES, 0.2)) == [0]
    assert kept(typical(HALVES, 0.25)) == [0, 1]
    assert kept(typical(HALVES, 0.8)) == [0, 1, 2]
    assert kept(exclude_top(HALVES, 0.1)) == [2, 3, 4]
    assert kept(exclude_top(HALVES, 0.2)) == [0, 2, 3, 4]
    assert kept(exclude_top(HALVES, 0.3)) == [0, 1, 2, 3, 4], "one alone stays"
    assert kept(mirostat(HALVES, 2.0)) == [0, 1]
    assert kept(mirostat(HALVES, 3.5)) == [0, 1, 2]
    assert kept(mirostat(HALVES, -7.0)) == [1]


def penalised(scores: np.ndarray, params: SamplingParams) -> list[float]:
    """After the prompt 0, 1 and the reply 3, 3."""
    changed = scores.copy()
    penalise(changed, np.array([0, 1, 3, 3]), 2, params)
    found: list[float] = changed.tolist()
    return found


def test_penalties_by_hand() -> None:
    scores = np.array([2.0, -2.0, 1.0, 3.0, 0.5])
    params = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    assert penalised(scores, params) == [1.0, -4.0, 1.0, 1.5 - 2 * 0.5 - 0.25, 0.5]
    window = SamplingParams(repetition_penalty=2.0, repeat_last_n=3)
    assert penalised(scores, window) == [2.0, -4.0, 1.0, 1.5, 0.5]
    off = SamplingParams(repetition_penalty=2.0, repeat_last_n=0)
    assert penalised(scores, off) == scores.tolist()


def dry_loss(history: list[int], **knobs: object) -> dict[int, float]:
    params = SamplingParams(dry_multiplier=1.0, dry_base=2.0, **knobs)  # type: ignore[arg-type]
    loss = np.zeros(10)
    dry(loss, np.array(history, np.int64), params)
    loss = -loss
    return {int(token): float(loss[token]) for token in np.flatnonzero(loss)}


def test_dry_by_hand() -> None:
    # The end "1 2 3" came before, and 4 followed: 3 tokens, one more than allowed.
    assert dry_loss([1, 2, 3, 4, 1, 2, 3]) == {4: 2.0}
    # "2 3" was followed by 5 later, "1 2 3" by 4.
    assert dry_loss([1, 2, 3, 4, 2, 3, 5, 1, 2, 3]) == {4: 2.0, 5: 1.0}
    # Both times 4: the longer one counts.
    assert dry_loss([1, 2, 3, 4, 2, 3, 4, 1, 2, 3]) == {4: 2.0}
    assert dry_loss([1, 2, 3, 4, 1, 2, 3], dry_allowed_length=3) == {4: 1.0}
    assert dry_loss([1, 2, 3, 4, 1, 2, 3], dry_allowed_length=4) == {}
    # A repetition may overlap itself: the last four 7s equal the four before the last.
    assert dry_loss([7, 7, 7, 7, 7]) == {7: 4.0}
    assert dry_loss([5]) == {}
    assert dry_loss([1, 2, 3, 4]) == {}


def test_dry_breakers_by_hand() -> None:
    history = [1, 2, 3, 4, 1, 2, 3]
    # After the breaker 1 two tokens are left, after 2 one, after 3 none.
    assert dry_loss(history, dry_sequence_breakers=((1,),)) == {4: 1.0}
    assert dry_loss(history, dry_sequence_breakers=((2,),)) == {}
    assert dry_loss(history, dry_sequence_breakers=((1, 2),)) == {}
    assert dry_loss(history, dry_sequence_breakers=((2, 9),)) == {4: 2.0}
    # 4 would go on, but is a breaker itself (before the end, so the end is not cut).
    assert dry_loss(history, dry_sequence_breakers=((4,),)) == {}


@given(history=st.lists(st.integers(0, 2), max_size=14), allowed=st.integers(1, 3))
def test_dry_like_a_plain_search(history: list[int], allowed: int) -> None:
    longest: dict[int, int] = {}
    for end in range(1, len(history)):
        for n in range(allowed, end + 1):
            if history[end - n : end] == history[-n:]:
                longest[history[end]] = max(n, longest.get(history[end], 0))
    want = {token: 2.0 ** (n - allowed) for token, n in longest.items()}
    assert dry_loss(history, dry_allowed_length=allowed) == want


def test_dry_window_and_limits() -> None:
    params = SamplingParams(temperature=0.0, dry_multiplier=100.0, dry_penalty_last_n=4)
    logits = np.linspace(0, 1, 6, dtype=np.float32)
    assert HostSampler(params, 0).choose(logits, None, [1, 2, 3, 5, 1, 2, 3], []) == 5, "the window is too short"
    assert HostSampler(SamplingParams(dry_multiplier=100.0), 0).choose(logits, None, [1, 2, 3, 5], [1, 2, 3]) == 4
    scores = np.zeros(3)
    dry(scores, np.ones(5000, np.int64), SamplingParams(dry_multiplier=1.0, dry_base=100.0))
    assert np.isfinite(scores).all()
    assert scores[1] < -1e37


def test_mirostat_by_hand() -> None:
    params = SamplingParams(temperature=1.0, mirostat=2, mirostat_tau=1.2, mirostat_eta=0.5, seed=1)
    sampler = HostSampler(params, 1)
    assert sampler.surprise_limit == 2.4
    logits = np.log(HALVES).astype(np.float32)
    token = sampler.choose(logits, None, [0], [])
    # Tokens 0 and 1 stay, with 1/3 and 2/3; the surprise of the choice is compared with tau.
    error = -math.log2({0: 1 / 3, 1: 2 / 3}[token]) - 1.2
    assert sampler.surprise_limit == pytest.approx(2.4 - 0.5 * error, abs=1e-6)


def test_mirostat_holds_the_surprise() -> None:
    rng = np.random.default_rng(0)
    sampler = HostSampler(SamplingParams(temperature=1.0, mirostat=2, mirostat_tau=3.0), 5)
    surprises = []
    for step in range(600):
        logits = (rng.standard_normal(500) * 2).astype(np.float32)
        p = softmax(logits.astype(np.float64))
        p = np.where(-np.log2(p) <= sampler.surprise_limit, p, 0)
        surprises.append(-math.log2(p[sampler.choose(logits, None, [0], [0] * step)] / p.sum()))
    assert np.mean(surprises[100:]) == pytest.approx(3.0, abs=0.1)


def expected_distribution(logits: np.ndarray, params: SamplingParams, allowed: np.ndarray) -> np.ndarray:
    """By plain loops over tokens sorted by probability, one filter after the other."""
    bias = dict(params.logit_bias)
    scores = {t: float(x) + bias.get(t, 0.0) for t, x in enumerate(logits) if allowed[t]}

    def p() -> dict[int, float]:
        total = math.fsum(map(math.exp, scores.values()))
        return {t: math.exp(x) / total for t, x in sorted(scores.items(), key=lambda item: -item[1])}

    def keep(tokens: list[int]) -> dict[int, float]:
        return {t: scores[t] for t in tokens}

    def until(order: list[int], mass: float) -> dict[int, float]:
        now = p()
        sums = itertools.accumulate(now[t] for t in order)
        return keep([t for t, s in zip(order, sums, strict=True) if s - now[t] < mass])

    if params.top_k:
        scores = keep(list(p())[: params.top_k])
    if params.typical_p < 1:
        now = p()
        entropy = -math.fsum(x * math.log(x) for x in now.values())
        scores = until(sorted(now, key=lambda t: abs(-math.log(now[t]) - entropy)), params.typical_p)
    if params.top_p < 1:
        scores = until(list(p()), params.top_p)
    if params.min_p:
        now = p()
        scores = keep([t for t in now if now[t] >= params.min_p * max(now.values())])
    without = dict(scores)
    if params.xtc_probability:
        above = [t for t, x in p().items() if x >= params.xtc_threshold]
        without = {t: x for t, x in scores.items() if t not in above[:-1]}
    result = np.zeros(len(logits))
    for share, these in ((params.xtc_probability, without), (1 - params.xtc_probability, scores)):
        total = math.fsum(math.exp(x / params.temperature) for x in these.values())
        for t, x in these.items():
            result[t] += share * math.exp(x / params.temperature) / total
    return result


KNOBS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.5, "top_k": 7},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 2.0, "min_p": 0.05},
    {"temperature": 1.0, "typical_p": 0.6},
    {"temperature": 1.0, "xtc_probability": 0.4, "xtc_threshold": 0.05},
    {"temperature": 0.8, "logit_bias": ((0, 3.0), (1, -1000.0))},
    {"temperature": 1.2, "top_k": 25, "typical_p": 0.95, "top_p": 0.9, "min_p": 0.02, "xtc_probability": 0.5},
]


@pytest.mark.parametrize(
    "knobs",
    KNOBS,
    ids=lambda knobs: "+".join(knobs) or "plain",
)
@pytest.mark.parametrize("masked", [False, True])
def test_draws_follow_the_distribution(knobs: dict[str, float], masked: bool) -> None:
    rng = np.random.default_rng(8)
    logits = (rng.standard_normal(60) * 2).astype(np.float32)
    allowed = rng.random(60) < 0.4 if masked else np.ones(60, bool)
    params = SamplingParams(**{"temperature": 1.0, **knobs})  # type: ignore[arg-type]
    expected = expected_distribution(logits, params, allowed)
    draws = 3000
    counts = np.zeros(60)
    for i in range(draws):
        token = HostSampler(params, i).choose(logits, allowed if masked else None, [1, 2], [])
        assert expected[token] > 0, "a token that a filter or the mask excludes"
        counts[token] += 1
    often = expected * draws >= 5
    chi = (np.square(counts - expected * draws) / np.maximum(expected * draws, 1e-9))[often].sum()
    assert chi <= often.sum() + 5 * math.sqrt(2 * often.sum())


@pytest.mark.parametrize("knobs", [{}, *(each for each in KNOBS if "xtc_probability" not in each)])
@pytest.mark.parametrize("masked", [False, True])
def test_what_a_token_was_drawn_from(knobs: dict[str, Any], masked: bool) -> None:
    rng = np.random.default_rng(9)
    logits = (rng.standard_normal(60) * 2).astype(np.float32)
    allowed = rng.random(60) < 0.4 if masked else np.ones(60, bool)
    params = SamplingParams(**{"temperature": 1.0, "sampled_logprobs": True, "top_logprobs": 5, **knobs})
    assert params.on_host
    expected = expected_distribution(logits, params, allowed)
    sampler = HostSampler(params, 3)
    token = sampler.choose(logits, allowed if masked else None, [1, 2], [])
    logprob, top = sampler.drawn_from(token, 5)
    assert math.exp(logprob) == pytest.approx(expected[token])
    best = [int(t) for t in np.argsort(-expected, kind="stable") if expected[t] > 0][:5]
    assert [t for t, _ in top] == best
    assert [math.exp(value) for _, value in top] == pytest.approx(expected[best].tolist())
    everything = sampler.drawn_from(token, 60)[1]
    assert len(everything) == np.count_nonzero(expected)  # what cannot be drawn is not there
    assert math.fsum(math.exp(value) for _, value in everything) == pytest.approx(1.0)


def test_a_greedy_choice_is_certain() -> None:
    sampler = HostSampler(SamplingParams(sampled_logprobs=True, top_logprobs=3), 0)
    token = sampler.choose(np.array([0.0, 2.0, 1.0], np.float32), None, [1], [])
    assert sampler.drawn_from(token, 3) == (0.0, ((1, 0.0),))


def test_greedy_takes_the_best_allowed() -> None:
    logits = np.array([3.0, 5.0, 5.0, 4.0], np.float32)
    params = SamplingParams(dry_multiplier=1.0)
    assert HostSampler(params, 0).choose(logits, None, [0], []) == 1
    assert HostSampler(params, 0).choose(logits, np.array([True, False, False, True]), [0], []) == 3


def test_the_race_is_drawn_by_weight() -> None:
    weights = np.array([0.0, 3.0, 1.0, 0.0])
    counts = Counter(race(weights, None, seed, position) for seed in range(40) for position in range(100))
    assert counts.keys() == {1, 2}
    assert abs(counts[1] - 3000) < 5 * math.sqrt(4000 * 0.75 * 0.25)
    assert race(weights, None, -1, 7) == race(weights, None, 2**64 - 1, 7)
    ids = np.array([5, 17, 40, 41])
    spread = np.zeros(50)
    spread[ids] = weights
    for position in range(50):  # a token's luck does not depend on the others
        assert race(weights, ids, 3, position) == race(spread, None, 3, position)


def test_xtc_acts_as_often_as_it_should() -> None:
    acts = [xtc_acts(seed, position, 0.3) for seed in range(40) for position in range(100)]
    assert abs(sum(acts) - 1200) < 5 * math.sqrt(4000 * 0.3 * 0.7)
    assert all(xtc_acts(1, position, 1.0) and not xtc_acts(1, position, 0.0) for position in range(1000))
    # Whether it acts says nothing about what is drawn.
    drawn = [race(np.ones(2), None, seed, position) for seed in range(40) for position in range(100)]
    assert abs(np.corrcoef(acts, drawn)[0, 1]) < 5 / math.sqrt(4000)


def test_logprobs() -> None:
    logits = (np.log(HALVES) + 12).astype(np.float32)
    own, top = logprobs(logits, 2, 3)
    assert own == pytest.approx(math.log(0.125), abs=1e-6)
    assert [token for token, _ in top] == [1, 0, 2]
    assert [value for _, value in top] == pytest.approx(np.log([0.5, 0.25, 0.125]).tolist(), abs=1e-6)
    assert logprobs(logits, 3, 0)[1] == ()
    assert [token for token, _ in logprobs(logits, 3, 99)[1]] == [1, 0, 2, 3, 4]


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_masks_are_bits(flags: list[bool]) -> None:
    mask = pack_bits(np.array(flags))
    assert (mask.dtype, len(mask)) == (np.uint32, -(-len(flags) // 32))
    assert [bool(int(mask[t // 32]) >> t % 32 & 1) for t in range(len(flags))] == flags
    assert unpack_bits(mask, len(flags)).tolist() == flags
