"""The sampling kernels on the CPU in check mode (random thread order, races, bounds), against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import Flavour, SimLibrary, aligned, compile_sim

from imp_runtime.constraint import pack_bits
from imp_runtime.host_sampler import top_logprobs
from imp_runtime.plan import BIASED, BREAKER_WORDS, MASKED, MIROSTAT, NO_LEDGER, NO_TOKEN, SAMPLING_DTYPE, TOP_DTYPE

Array = NDArray[Any]
THREADS = 64
CONTEXT = 600
# Vocabulary: parts, list, whether there is a histogram. Without one and with few parts most draws end with a pass over
# all tokens; with many parts a small top-k is bounded by them, and nothing overflows but equal logits.
SHAPES = {203: (5, 64, False), 1999: (40, 600, True)}
FAR = {17000: (2, 600, True)}  # too many tokens for the shared memory of a CTA that sieves

KERNELS = """
#include "imp/stage/draw.h"
#include "imp/stage/greedy.h"
#include "imp/stage/sieve.h"
#include "imp/stage/top_logits.h"
"""
SAMPLER = """
constexpr imp::SampleConfig config_VOCAB{
    .vocab = VOCAB, .context = CONTEXT, .breakers = 1024, .parts = PARTS, .threads = 64, .listed = LISTED, .ring = 8,
    .weighed = WEIGHED};
using greedy_VOCAB_t = imp::Greedy<config_VOCAB>;
using score_VOCAB_t = imp::Score<config_VOCAB>;
using weigh_VOCAB_t = imp::Weigh<config_VOCAB>;
using draw_VOCAB_t = imp::Draw<config_VOCAB>;
using sieve_VOCAB_t = imp::Sieve<config_VOCAB>;
using top_VOCAB_t = imp::TopLogits<config_VOCAB, 20, 8>;
extern "C" {
int greedy_VOCAB_shared = greedy_VOCAB_t::kSharedBytes;
int score_VOCAB_shared = score_VOCAB_t::kSharedBytes;
int weigh_VOCAB_shared = weigh_VOCAB_t::kSharedBytes;
int draw_VOCAB_shared = draw_VOCAB_t::kSharedBytes;
int sieve_VOCAB_shared = sieve_VOCAB_t::kSharedBytes;
int top_VOCAB_shared = top_VOCAB_t::kSharedBytes;
}
extern "C" __global__ void top_VOCAB(const float* logits, const float* value, const std::uint32_t* best,
    const imp::StepHeader* step, const std::int32_t* tokens, const std::uint32_t* count, std::uint64_t* part_mass,
    std::uint64_t* listed, std::uint32_t* arrived, imp::TopEntry* entries) {
  top_VOCAB_t::run({{logits, value, best}, step, tokens, count, {part_mass, listed, arrived}, entries});
}
extern "C" __global__ void greedy_VOCAB(const float* value, const std::uint32_t* best, const imp::StepHeader* step,
    std::int32_t* tokens, std::int32_t* positions, std::uint32_t* count, std::uint64_t* ring) {
  greedy_VOCAB_t::run({value, best, {step, tokens, positions, count, ring}});
}
extern "C" __global__ void score_VOCAB(const float* logits, const imp::StepHeader* step, const imp::Sampling* sampling,
    const std::int32_t* positions, const std::int32_t* history, const std::int32_t* breakers, const imp::Seen* seen,
    const std::uint32_t* mask, const float* bias, std::uint32_t* longest, float* scores, float* value,
    std::uint32_t* best) {
  score_VOCAB_t::run({{logits, step, sampling, positions, history, breakers, seen, mask, bias, longest}, scores, value,
      best});
}
extern "C" __global__ void sieve_VOCAB(const __grid_constant__ sieve_VOCAB_t::Args args) { sieve_VOCAB_t::run(args); }
extern "C" __global__ void weigh_VOCAB(const imp::StepHeader* step, const imp::Sampling* sampling, const float* scores,
    const float* value, const std::uint32_t* best, std::uint64_t* histogram) {
  weigh_VOCAB_t::run({step, sampling, {scores, value, best}, histogram});
}
extern "C" __global__ void draw_VOCAB(const imp::Sampling* sampling, const float* scores, const float* value,
    const std::uint32_t* best, std::uint64_t* histogram, float* winner_value, std::uint32_t* winner, float* list_scores,
    std::uint32_t* list_ids, std::uint32_t* arrived, std::int32_t* history, imp::Seen* seen,
    const imp::StepHeader* step, std::int32_t* tokens, std::int32_t* positions, std::uint32_t* count,
    std::uint64_t* ring) {
  draw_VOCAB_t::run({sampling, {scores, value, best}, {histogram, winner_value, winner, list_scores, list_ids, arrived},
      {history, seen}, {step, tokens, positions, count, ring}});
}
"""


def compile_kernels(
    folder: Path, flavour: Flavour = "check", shapes: Mapping[int, tuple[int, int, bool]] = SHAPES
) -> SimLibrary:
    source = KERNELS
    for vocab, (parts, listed, weighed) in shapes.items():
        sampler = SAMPLER.replace("VOCAB", str(vocab)).replace("PARTS", str(parts)).replace("LISTED", str(listed))
        sampler = sampler.replace("CONTEXT", str(CONTEXT))
        source += sampler.replace("WEIGHED", str(weighed).lower())
    (folder / "sampling.cu").write_text(source)
    return SimLibrary(compile_sim(folder / "sampling.cu", folder, flavour))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return compile_kernels(tmp_path_factory.mktemp("sampling"))


class Sampler:
    """The kernels for one vocabulary, and their buffers; the sequence has slot 1 of two, and ledger 2 of three."""

    def __init__(self, library: SimLibrary, vocab: int) -> None:
        self.library, self.vocab = library, vocab
        parts, listed, self.weighed = (SHAPES | FAR)[vocab]
        self.parts = parts
        self.scratch = {
            "histogram": np.zeros(2048, np.uint64),
            "winner_value": np.zeros(parts, np.float32),
            "winner": np.zeros(parts, np.uint32),
            "list_scores": np.zeros(listed, np.float32),
            "list_ids": np.zeros(listed, np.uint32),
            "arrived": np.zeros(2, np.uint32),
            "shares": np.zeros(2 * parts * 3, np.uint64),
            "histograms": np.full(3 * 2048, 5, np.uint64),
            "sieved": np.zeros(1, np.uint32),
        }
        self.surprise = 0.0

    def draw(
        self,
        logits: Array,
        seen: Array,
        p: Array,
        position: int,
        seed: int,
        mask: Array | None = None,
        bias: Array | None = None,
        greedy: bool = False,
        sieve: bool = False,
        history: Sequence[int] = (),
        breakers: Array | None = None,
        recent: Array | None = None,
        ledger: int = 2,
    ) -> int:
        assert p.dtype == SAMPLING_DTYPE
        records = np.stack([p, p])
        records["ledger"] = 0, ledger
        pieces = np.array_split(np.arange(self.vocab), self.parts)
        best = np.array([piece[np.argmax(logits[piece])] for piece in pieces])
        value = np.where([np.isfinite(logits[piece]).all() for piece in pieces], logits[best], np.nan)
        words = pack_bits(np.ones(self.vocab, bool) if mask is None else mask)
        bias = np.zeros(self.vocab, np.float32) if bias is None else bias
        counts = both_counts(seen) if recent is None else np.stack([seen, recent], axis=1)
        remembered, ends = np.full((3, CONTEXT), -1, np.int32), np.zeros((3, BREAKER_WORDS), np.int32)
        remembered[2, : len(history)] = history
        if breakers is not None:
            ends[2, : len(breakers)] = breakers
        b = {name: aligned(array) for name, array in {
            "logits": logits, "value": value.astype(np.float32), "best": best.astype(np.uint32),
            "step": np.array([5, 3, 4, 1], np.int32), "sampling": records,
            "mask": np.stack([~words, ~words, words]), "bias": np.stack([-bias, -bias, bias]),
            "scores": np.zeros_like(logits), "tokens": np.full(2, 9, np.int32),
            "score_value": np.zeros(self.parts, np.float32), "score_best": np.zeros(self.parts, np.uint32),
            "positions": np.array([7, position], np.int32),
            "history": remembered, "breakers": ends, "longest": np.full(self.vocab, 77, np.uint32),
            "surprise": np.array([-1, self.surprise], np.float32), "surprises": np.zeros(8, np.float32),
            "seen": np.stack([counts, counts, counts]), "count": np.array([11], np.uint32),
            "sequences": np.zeros(4, np.int32), "first": np.zeros(1, np.uint32),  # nobody looks at them
            "ring": np.zeros(8, np.uint64), **self.scratch}.items()}  # fmt: skip
        logits_best, scores_best = ("logits", "value", "best"), ("scores", "score_value", "score_best")
        memory, delivery = ("history", "seen"), ("step", "tokens", "positions", "count", "ring")
        state = ("step", "sampling", "positions", "history", "breakers", "seen", "mask", "bias", "longest")
        if greedy:
            self.launch("greedy", 1, b, "value", "best", *delivery, seed=seed)
        elif sieve:
            scratch = ("surprise", "scores", "shares", "histograms", "sieved", "surprises")
            ends = ("logits", *state, "sequences", *scratch, *memory, *delivery, "sequences", "first")
            self.launch("sieve", self.parts, b, *ends, seed=seed)
        else:
            penalises = p["repetition_penalty"] != 1 or p["frequency_penalty"] or p["presence_penalty"]
            adjusts = p["flags"] or penalises or p["dry_multiplier"]
            source = scores_best if adjusts else logits_best
            if adjusts:
                self.launch("score", self.parts, b, "logits", *state, *scores_best, seed=seed)
            if self.weighed:
                self.launch("weigh", self.parts, b, "step", "sampling", *source, "histogram", seed=seed)
            work = [name for name in self.scratch if name not in ("shares", "histograms", "sieved")]
            self.launch("draw", self.parts, b, "sampling", *source, *work, *memory, *delivery, seed=seed)
        assert not b["histogram"].any()
        assert not b["arrived"].any()
        assert not b["sieved"].any()
        assert b["positions"].tolist() == [7, position + 1]
        assert b["count"][0] == 12
        number, token = divmod(int(b["ring"][3]), 1 << 32)
        assert number == 12
        expected = counts.copy()
        if token == NO_TOKEN:
            assert b["tokens"].tolist() == [9, 0]
        else:
            assert b["tokens"].tolist() == [9, token]
        if token != NO_TOKEN and ledger == 2 and not greedy:
            expected[token] += 1
            last_n = int(p["repeat_last_n"])
            if 0 < last_n <= len(history):
                expected[history[-last_n], 1] -= 1
            if position + 1 < CONTEXT:
                remembered[2, position + 1] = token
        np.testing.assert_array_equal(b["seen"], np.stack([counts, counts, expected]))
        np.testing.assert_array_equal(b["history"], remembered)
        assert b["surprise"][0] == -1
        self.surprise = float(b["surprise"][1])
        if p["flags"] & MIROSTAT and token != NO_TOKEN:
            assert b["surprises"].tolist() == [0, 0, 0, self.surprise, 0, 0, 0, 0]
        return token

    def launch(self, kernel: str, grid: int, buffers: dict[str, Array], *names: str, seed: int) -> None:
        self.library.configure(order=2, seed=seed)
        entry = f"{kernel}_{self.vocab}"
        shared, arguments = self.library.integer(f"{entry}_shared"), [buffers[name] for name in names]
        said = self.library.launch(entry, arguments, (grid, 1, 1), THREADS, shared, resident=kernel == "sieve")
        assert said == ""


def both_counts(seen: Array) -> Array:
    """Times generated and times recent, uint32 [n, 2], of times generated and bit 31 for tokens of the prompt."""
    generated = seen & 0x7FFFFFFF
    return np.stack([generated, generated + (seen >> 31)], axis=1).astype(np.uint32)


def distribution(logits: Array, seen: Array, p: Array, mask: Array, bias: Array) -> Array:
    """Probabilities after bias, penalties, mask, top-k, top-p, min-p and temperature, written for sorted arrays."""
    scores = logits.astype(np.float64) + (bias if p["flags"] & BIASED else 0)
    if p["repetition_penalty"] != 1 or p["frequency_penalty"] or p["presence_penalty"]:
        times = (seen & 0x7FFFFFFF).astype(np.float64)
        repeated = np.where(scores > 0, scores / p["repetition_penalty"], scores * p["repetition_penalty"])
        scores = np.where(seen != 0, repeated, scores)
        scores = scores - np.where(times > 0, times * p["frequency_penalty"] + p["presence_penalty"], 0)
    if p["flags"] & MASKED:
        scores = np.where(mask, scores, -np.inf)
    if p["temperature"] == 0:
        return (np.arange(len(scores)) == np.argmax(scores)).astype(np.float64)
    weights = np.exp(scores - scores.max())
    order = np.argsort(-weights, kind="stable")
    keep = np.ones(len(weights), bool)
    if p["top_k"] > 0:
        keep[order[p["top_k"] :]] = False
    if p["top_p"] < 1:
        kept = np.where(keep, weights, 0)[order]
        before = np.cumsum(kept) - kept
        keep[order[before >= p["top_p"] * kept.sum()]] = False
    keep &= weights >= p["min_p"]
    weights = np.where(keep, weights, 0) ** (1 / float(p["temperature"]))
    return weights / weights.sum()


def draw(
    library: SimLibrary,
    logits: Array,
    seen: Array,
    p: Array,
    position: int,
    seed: int,
    mask: Array | None = None,
    bias: Array | None = None,
) -> int:
    """The token that the kernels choose, in a random order of threads. Demands that their scratch is as it was."""
    return Sampler(library, len(logits)).draw(logits, seen, p, position, seed, mask, bias)


def parameters(**values: float) -> Array:
    record = np.zeros((), SAMPLING_DTYPE)
    record["top_p"] = record["repetition_penalty"] = record["typical_p"] = 1
    record["repeat_last_n"] = record["dry_last_n"] = -1
    for name, value in values.items():
        record[name] = value
    return record


SETTINGS = (
    {},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.3, "presence_penalty": 0.4},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    {"flags": MASKED},
    {"flags": BIASED},
    {"flags": MASKED, "repetition_penalty": 1.5, "presence_penalty": 0.4},
    {"flags": MASKED, "temperature": 1.0},
    {"flags": MASKED | BIASED, "temperature": 1.5, "top_k": 12},
    {"flags": MASKED, "temperature": 0.8, "top_p": 0.7, "min_p": 0.01},
    {"flags": BIASED, "temperature": 1.0, "top_p": 0.9},
)


@pytest.mark.parametrize("values", SETTINGS, ids=lambda values: "+".join(values) or "greedy")
def test_draws_follow_the_distribution(library: SimLibrary, values: dict[str, float]) -> None:
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal(203) * 2).astype(np.float32)
    seen = np.where(rng.random(203) < 0.2, rng.integers(1, 4, 203), 0).astype(np.uint32)
    seen[:3] |= np.uint32(1 << 31)
    # The likeliest tokens are masked, the highest id is not: its word of the mask is not full.
    mask = (rng.random(203) < 0.15) & (logits < np.sort(logits)[-8])
    mask[202] = True
    bias = np.where(rng.random(203) < 0.1, rng.standard_normal(203) * 4, 0).astype(np.float32)
    p = parameters(**values)
    expected = distribution(logits, seen, p, mask, bias)
    draws = 1 if p["temperature"] == 0 else 400
    counts = np.zeros(203)
    for i in range(draws):
        p["seed"] = rng.integers(0, 2**63)
        token = draw(library, logits, seen, p, int(rng.integers(0, 1000)), i, mask, bias)
        assert expected[token] > 0, "a token that the filters exclude"
        counts[token] += 1
    # Chi-squared over the tokens that should come up often; its mean is the number of them, its sd sqrt(2n).
    often = expected * draws >= 5
    chi = (np.square(counts - expected * draws) / np.maximum(expected * draws, 1e-9))[often].sum()
    assert chi <= often.sum() + 5 * math.sqrt(2 * often.sum())


@pytest.mark.parametrize("vocab", SHAPES)
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 12.0])
def test_the_best_logits_and_what_all_weigh(library: SimLibrary, vocab: int, spread: float) -> None:
    """As many parts as bound the best, or so few that the last CTA goes through all; also where all are equal."""
    rng = np.random.default_rng(vocab)
    for step in range(1, 12):
        logits = (rng.standard_normal(vocab) * spread).astype(np.float32)
        token = int(rng.integers(0, vocab))
        pieces = np.array_split(np.arange(vocab), SHAPES[vocab][0])
        best = np.array([piece[np.argmax(logits[piece])] for piece in pieces])
        buffers = {
            "logits": logits, "value": logits[best], "best": best.astype(np.uint32),
            "step": np.array([5, 3, 4, 1], np.int32), "tokens": np.array([0, token], np.int32),
            "count": np.array([step], np.uint32), "part_mass": np.zeros(len(pieces), np.uint64),
            "listed": np.zeros(252, np.uint64), "arrived": np.zeros(2, np.uint32), "entries": np.zeros(8, TOP_DTYPE),
        }  # fmt: skip
        held = {name: aligned(array) for name, array in buffers.items()}
        Sampler(library, vocab).launch("top", len(pieces), held, *held, seed=step)
        assert not held["arrived"].any()
        wide = logits.astype(np.float64)
        expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        logprob, top = top_logprobs(held["entries"][(step - 1) % 8], 20)
        assert logprob == pytest.approx(expected[token], abs=3e-5)
        assert [logprob for _, logprob in top] == pytest.approx(np.sort(expected)[::-1][:20], abs=3e-5)
        assert len({token for token, _ in top}) == 20
        for each, logprob in top:
            assert logprob == pytest.approx(expected[each], abs=3e-5)


MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def random_words(seed: int, position: int, tokens: Array) -> Array:
    """SplitMix64's finaliser twice over seed and position, then MurmurHash3's twice over its halves and the token."""

    def mix64(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK64
        return z ^ z >> 31

    def mix32(h: Array) -> Array:
        h = (h ^ h >> 16) * 0x85EBCA6B & MASK32
        h = (h ^ h >> 13) * 0xC2B2AE35 & MASK32
        return h ^ h >> 16

    key = mix64(mix64(seed + 0x9E3779B97F4A7C15 & MASK64) + position & MASK64)
    return mix32(mix32(tokens.astype(np.uint64) ^ (key & MASK32)) + (key >> 32) & MASK32)


def race(probabilities: Array, seed: int, position: int) -> Array:
    """How far each token comes: log p - log E, E exponentially distributed."""
    uniform = (random_words(seed, position, np.arange(len(probabilities))) + 0.5) / 2**32
    with np.errstate(divide="ignore"):
        return np.log(probabilities) - np.log(-np.log1p(-uniform))


LARGE = (
    *SETTINGS[2:],
    {"temperature": 0.8, "top_k": 30},
    {"temperature": 0.8, "top_k": 31},
    {"temperature": 1.0, "top_k": 250, "top_p": 0.97},
    {"temperature": 1.0, "top_k": 700},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.0, "top_p": 0.9999},
    {"temperature": 1.0, "top_k": 1998, "min_p": 0.001},
    {"flags": BIASED, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "frequency_penalty": 0.5},
)


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("values", LARGE, ids=lambda values: "+".join(values))
def test_the_race_is_won_as_numpy_says(library: SimLibrary, values: dict[str, float], spread: float) -> None:
    """Many parts: lists by their bests, by bins of the histogram, none, and those that overflow."""
    rng = np.random.default_rng(int(spread * 100))
    vocab = 1999
    p = parameters(**values)
    for i in range(3):
        logits = (rng.standard_normal(vocab) * spread).astype(np.float32)
        seen = np.where(rng.random(vocab) < 0.1, rng.integers(1, 4, vocab), 0).astype(np.uint32)
        mask = rng.random(vocab) < (0.01 if i == 0 else 0.4)
        bias = np.where(rng.random(vocab) < 0.1, rng.standard_normal(vocab) * 3, 0).astype(np.float32)
        p["seed"] = rng.integers(0, 2**63)
        position = int(rng.integers(0, 100_000))
        expected = race(distribution(logits, seen, p, mask, bias), int(p["seed"]), position + 1)
        token = draw(library, logits, seen, p, position, i, mask, bias)
        # The kernel's arithmetic is float32: of two that are this near either may win, or be the last to stay.
        assert expected[token] >= expected.max() - 1e-4


BORDERS = ({"top_k": 4}, {"top_k": 7}, {"top_p": 0.3}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 6, "top_p": 0.8})


@pytest.mark.parametrize("vocab", SHAPES)
@pytest.mark.parametrize("values", BORDERS, ids=lambda values: "+".join(values))
def test_all_that_the_filters_leave_come_up_and_no_others(
    library: SimLibrary, vocab: int, values: dict[str, float]
) -> None:
    """So hot that of those that stay each is about as likely as any other."""
    rng = np.random.default_rng(vocab)
    logits = (rng.standard_normal(vocab) * 3).astype(np.float32)
    logits[rng.permutation(vocab)[:9]] = 12 - np.arange(9) / 4
    seen, everything, nothing = np.zeros(vocab, np.uint32), np.ones(vocab, bool), np.zeros(vocab, np.float32)
    p = parameters(temperature=100.0, **values)
    stay = np.flatnonzero(distribution(logits, seen, p, everything, nothing))
    assert 1 < len(stay) < 9
    drawn = set()
    for seed in range(70):
        p["seed"] = seed
        drawn.add(draw(library, logits, seen, p, 3, seed))
    assert drawn == set(stay.tolist())


def test_equal_logits_overflow_every_list(library: SimLibrary) -> None:
    seen, logits = np.zeros(1999, np.uint32), np.full(1999, 3, np.float32)
    for values in ({"top_k": 3}, {"top_k": 100}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5, "min_p": 0.5}):
        p = parameters(temperature=1.0, seed=5, **values)
        # Equal ones at the border all stay.
        expected = race(np.ones(1999), 5, 43)
        assert draw(library, logits, seen, p, 42, 0) == int(expected.argmax())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("values", [{}, *SETTINGS[1:]], ids=lambda values: "+".join(values) or "greedy")
def test_logits_that_are_no_numbers_give_no_token(library: SimLibrary, values: dict[str, float], bad: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(203).astype(np.float32)
    logits[150] = bad
    seen, mask = np.zeros(203, np.uint32), np.arange(203) == 7
    p = parameters(**values)
    assert draw(library, logits, seen, p, 5, 0, mask) == NO_TOKEN
    if not values:
        assert Sampler(library, 203).draw(logits, seen, p, 5, 0, greedy=True) == NO_TOKEN
    logits[150] = 9
    assert draw(library, logits, seen, p, 5, 0, mask) != NO_TOKEN


def test_greedy_takes_the_first_of_the_largest(library: SimLibrary) -> None:
    rng = np.random.default_rng(3)
    for vocab in SHAPES:
        for seed in range(5):
            logits = rng.integers(0, 30, vocab).astype(np.float32)
            p, seen = parameters(), np.zeros(vocab, np.uint32)
            sampler = Sampler(library, vocab)
            assert sampler.draw(logits, seen, p, 5, seed, greedy=True) == logits.argmax()
            assert sampler.draw(logits, seen, p, 5, seed) == logits.argmax()


@pytest.mark.parametrize("values", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}], ids=str)
@pytest.mark.parametrize("sieve", [False, True])
def test_without_a_ledger_none_is_touched(library: SimLibrary, values: dict[str, float], sieve: bool) -> None:
    """And the token is the same; what is in the ledgers is compared by `draw` itself."""
    rng = np.random.default_rng(9)
    for vocab in SHAPES:
        logits, seen = rng.standard_normal(vocab).astype(np.float32), np.zeros(vocab, np.uint32)
        p = parameters(seed=5, **values)
        sieves = sieve and p["temperature"] > 0
        tokens = [
            Sampler(library, vocab).draw(logits, seen, p, 20, 1, sieve=sieves, ledger=each) for each in (2, NO_LEDGER)
        ]
        assert tokens[0] == tokens[1]


@pytest.mark.parametrize(
    "values", [{}, {"temperature": 100.0}, {"temperature": 1.0, "top_k": 5, "min_p": 0.5}], ids=str
)
def test_one_allowed_token_is_always_chosen(library: SimLibrary, values: dict[str, float]) -> None:
    """Also where its logit is far below all others, or every logit is the same."""
    rng = np.random.default_rng(0)
    seen = np.zeros(203, np.uint32)
    for token in (0, 31, 32, 202, *rng.integers(0, 203, 30).tolist()):
        logits = (rng.standard_normal(203) * 30 if token % 2 else np.zeros(203)).astype(np.float32)
        logits[token] -= 500 * (token % 3)
        p = parameters(flags=MASKED, seed=token, **values)
        assert draw(library, logits, seen, p, token, token, np.arange(203) == token) == token


def test_a_random_number_that_rounds_to_one_chooses_no_excluded_token(library: SimLibrary) -> None:
    """For this seed, position 1 and token 40 the number is 1 - 2**-26: its race takes forever, but runs alone."""
    p = parameters(temperature=1.0, flags=MASKED, seed=72432301)
    logits, seen = np.zeros(203, np.float32), np.zeros(203, np.uint32)
    assert draw(library, logits, seen, p, 0, 0, np.arange(203) == 40) == 40
    logits[40] = 5
    assert draw(library, logits, seen, parameters(temperature=1.0, top_k=1, seed=72432301), 0, 0) == 40


def test_seed_and_position_decide(library: SimLibrary) -> None:
    logits = np.zeros(203, np.float32)
    seen = np.zeros(203, np.uint32)
    p = parameters(temperature=1.0, seed=42)
    first: Callable[[int], int] = lambda position: draw(library, logits, seen, p, position, seed=position)  # noqa: E731
    assert [first(i) for i in range(5)] == [first(i) for i in range(5)]
    assert len({first(i) for i in range(8)}) > 3
    assert draw(library, logits, seen, parameters(temperature=1.0, seed=43), 0, 1) != first(0)
