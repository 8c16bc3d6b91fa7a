"""The ends of several sequences in the same launches, in check mode: each gets the host's token, as if alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary, aligned, compile_sim

from imp_runtime.constraint import pack_bits
from imp_runtime.host_sampler import HostSampler, top_logprobs
from imp_runtime.plan import BREAKER_WORDS, EXPORTED, LISTED, MASKED, NO_END, NO_LEDGER, SAMPLING_DTYPE, TOP_DTYPE
from imp_runtime.sampling import SamplingParams

Array = NDArray[Any]
VOCAB, PARTS, LISTED_TOKENS, CONTEXT, RING, THREADS = 700, 20, 300, 64, 16, 64
SLOTS, LEDGERS, GRID = 12, 9, 11

SOURCE = """
#include "imp/stage/draw.h"
#include "imp/stage/export_logits.h"
#include "imp/stage/gather_rows.h"
#include "imp/stage/sieve.h"
#include "imp/stage/top_logits.h"
constexpr imp::SampleConfig config{
    .vocab = VOCAB, .context = CONTEXT, .breakers = BREAKERS, .parts = PARTS, .threads = THREADS, .listed = LISTED,
    .ring = RING, .weighed = true, .several = true};
constexpr imp::SampleConfig alone{
    .vocab = VOCAB, .context = CONTEXT, .breakers = BREAKERS, .parts = 1, .threads = THREADS, .listed = LISTED,
    .ring = RING, .weighed = true, .several = true};
using score_t = imp::Score<config>;
using weigh_t = imp::Weigh<config>;
using draw_t = imp::Draw<config>;
using sieve_t = imp::Sieve<alone>;
using top_t = imp::TopLogits<config, 12, 16>;
using exported_t = imp::ExportLogits<imp::ExportConfig{.vocab = VOCAB, .threads = THREADS, .several = true}>;
using gather_t = imp::GatherRows<imp::GatherConfig{.cols = 70, .stride = 72, .threads = THREADS}>;
#define IMP_TEST(name)                                                     \\
  extern "C" int name##_shared;                                            \\
  int name##_shared = name##_t::kSharedBytes;                              \\
  extern "C" __global__ void name(const __grid_constant__ name##_t::Args args) { name##_t::run(args); }
IMP_TEST(score)
IMP_TEST(weigh)
IMP_TEST(draw)
IMP_TEST(sieve)
IMP_TEST(top)
IMP_TEST(exported)
IMP_TEST(gather)
"""

KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "frequency_penalty": 0.8},
    {},
    {"top_k": 5},
    {"top_k": 12, "top_p": 0.9},
    {"top_k": 200},
    {"top_k": 300, "top_p": 0.8, "min_p": 0.01},
    {"top_p": 0.7},
    {"min_p": 0.1, "logit_bias": ((3, 4.0), (5, -2.0))},
    {"repetition_penalty": 1.4, "repeat_last_n": 5, "top_p": 0.9},
    {"dry_multiplier": 1.0, "dry_allowed_length": 1, "dry_sequence_breakers": ((2,), (3, 1))},
    {"typical_p": 0.6},
    {"typical_p": 0.8, "presence_penalty": 0.6, "top_k": 90, "top_p": 0.9, "min_p": 0.02},
    {"xtc_probability": 1.0, "xtc_threshold": 0.03},
    {"xtc_probability": 0.5, "xtc_threshold": 0.1, "logit_bias": ((1, 3.0),)},
    {"mirostat": 2, "mirostat_tau": 3.0, "temperature": 1.4},
    {"mirostat": 2, "mirostat_tau": 2.0, "repetition_penalty": 1.3},
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    folder = tmp_path_factory.mktemp("several")
    source = SOURCE
    for name, value in (
        ("BREAKERS", BREAKER_WORDS), ("VOCAB", VOCAB), ("CONTEXT", CONTEXT), ("PARTS", PARTS), ("RING", RING),
        ("= LISTED", f"= {LISTED_TOKENS}"), ("= THREADS", f"= {THREADS}"),
    ):  # fmt: skip
        source = source.replace(name, str(value))
    (folder / "several.cu").write_text(source)
    return SimLibrary(compile_sim(folder / "several.cu", folder, "check"))


@pytest.mark.parametrize("seed", range(6))
def test_each_gets_its_own_token(library: SimLibrary, seed: int) -> None:
    """Sequences with random records, some after whose rows no token is chosen, in random slots with random ledgers."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))[:8]]
    slots = rng.permutation(SLOTS)[: len(kinds)].tolist()
    choosing = [True] * 6 + [False] * 2
    rng.shuffle(choosing)
    ends = sum(choosing)
    free = rng.permutation(LEDGERS).tolist()
    b: dict[str, Array] = {
        "logits": np.zeros((ends, VOCAB), np.float32), "sampling": np.zeros(SLOTS, SAMPLING_DTYPE),
        "positions": np.full(SLOTS, 7, np.int32), "tokens": np.full(SLOTS, 9, np.int32),
        "history": np.full((LEDGERS, CONTEXT), -1, np.int32), "breakers": np.zeros((LEDGERS, BREAKER_WORDS), np.int32),
        "seen": np.zeros((LEDGERS, VOCAB, 2), np.uint32), "bias": np.full((LEDGERS, VOCAB), 5, np.float32),
        "mask": np.zeros((LEDGERS, -(-VOCAB // 32)), np.uint32), "surprise": np.full(SLOTS, 1.5, np.float32),
        "longest": np.full((LEDGERS, VOCAB), 77, np.uint32), "scores": np.full((LEDGERS, VOCAB), 99, np.float32),
        "value": np.zeros(ends * PARTS, np.float32), "best": np.zeros(ends * PARTS, np.uint32),
        "logit_value": np.zeros(ends * PARTS, np.float32), "logit_best": np.zeros(ends * PARTS, np.uint32),
        "histogram": np.zeros(ends * 2048, np.uint64), "winner_value": np.zeros(ends * PARTS, np.float32),
        "winner": np.zeros(ends * PARTS, np.uint32), "list_scores": np.zeros(ends * LISTED_TOKENS, np.float32),
        "list_ids": np.zeros(ends * LISTED_TOKENS, np.uint32), "arrived": np.zeros(ends * 2, np.uint32),
        "shares": np.zeros(ends * 6, np.uint64), "histograms": np.full(ends * 3 * 2048, 5, np.uint64),
        "sieved": np.zeros(ends, np.uint32), "surprises": np.zeros(RING, np.float32),
        "count": np.array([3], np.uint32), "ring": np.zeros(RING, np.uint64),
        "step": np.array([ends, len(kinds), 0, 0], np.int32), "first": np.array([11], np.uint32),
        "sequences": np.zeros((GRID, 4), np.int32), "part_mass": np.zeros(ends * PARTS, np.uint64),
        "listed": np.zeros(ends * 252, np.uint64), "top_arrived": np.zeros(ends * 2, np.uint32),
        "entries": np.zeros(16, TOP_DTYPE), "exported": np.zeros((LEDGERS, VOCAB), np.float32),
    }  # fmt: skip
    b["sequences"][:, 2:] = (slots[0], 0)  # what lies behind them is of no matter
    expected: list[tuple[int, int, int, SamplingParams, int, float]] = []
    for i, kind in enumerate(kinds):
        params = SamplingParams(**{"temperature": 0.9, **kind}, seed=seed * 100 + i)
        slot, end = slots[i], sum(choosing[:i]) if choosing[i] else NO_END
        b["sequences"][i] = i, 1, slot, end
        shown = int(rng.choice((0, LISTED, EXPORTED)))
        masked = rng.random() < 0.3
        ledger = int(free.pop()) if params.adjusts or masked or shown & EXPORTED else NO_LEDGER
        record = params.record(params.seed or 0, ledger)[0]
        record["flags"] |= shown | (MASKED if masked else 0)
        b["sampling"][slot] = record
        length = int(rng.integers(8, 30))
        prompt, generated = (rng.integers(0, 6, n).tolist() for n in (length - 4, 4))
        history = prompt + generated
        b["positions"][slot] = length - 1
        logits = (rng.standard_normal(VOCAB) * rng.choice((0.3, 2.0, 5.0))).astype(np.float32)
        mask = rng.random(VOCAB) < 0.3
        if ledger != NO_LEDGER:
            last_n = length if params.repeat_last_n < 0 else params.repeat_last_n
            counted = (generated, history[max(0, length - last_n) :])
            b["seen"][ledger] = np.stack([np.bincount(tokens, minlength=VOCAB) for tokens in counted], axis=1)
            b["history"][ledger, :length] = history
            b["breakers"][ledger, : len(params.breakers())] = params.breakers()
            b["bias"][ledger] = params.bias(VOCAB)
            b["mask"][ledger] = pack_bits(mask)
        if end == NO_END:
            continue
        b["logits"][end] = logits
        host = HostSampler(params, params.seed or 0)
        host.surprise_limit = 1.5
        token = host.choose(logits, mask if masked else None, prompt, generated)
        expected.append((slot, ledger, token, params, shown, host.surprise_limit))
    before = {name: array.copy() for name, array in b.items()}
    held = {name: aligned(array) for name, array in b.items()}

    def launch(kernel: str, parts: int, *names: str) -> None:
        library.configure(order=2, seed=seed)
        arguments = [held[name] for name in names]
        shared = library.integer(f"{kernel}_shared")
        assert library.launch(kernel, arguments, (parts, GRID, 1), THREADS, shared, resident=True) == ""

    adjust = ("logits", "step", "sampling", "positions", "history", "breakers", "seen", "mask", "bias", "longest")
    source, logits_best = ("logits", "value", "best", "scores"), ("logits", "logit_value", "logit_best", "scores")
    delivery = ("step", "tokens", "positions", "count", "ring", "sequences", "first")
    launch("score", PARTS, *adjust, "sequences", "scores", "value", "best", "logit_value", "logit_best")
    launch("weigh", PARTS, "step", "sampling", *source, "histogram", "sequences")
    work = ("histogram", "winner_value", "winner", "list_scores", "list_ids", "arrived")
    launch("draw", PARTS, "sampling", *source, *work, "history", "seen", *delivery)
    sieve = ("surprise", "scores", "shares", "histograms", "sieved", "surprises", "history", "seen", *delivery)
    launch("sieve", 1, "step", "sampling", "sequences", *source, *sieve)
    launch("exported", 3, "logits", "step", "sampling", "exported", "sequences")
    top = ("step", "tokens", "first", "part_mass", "listed", "top_arrived", "entries", "sequences", "sampling")
    launch("top", PARTS, *logits_best, *top)

    wanted = {name: before[name].copy() for name in ("tokens", "positions", "ring", "surprise", "history", "seen")}
    for i, (slot, ledger, token, params, shown, limit) in enumerate(expected):
        place = int(before["positions"][slot]) + 1
        wanted["tokens"][slot], wanted["positions"][slot] = token, place
        wanted["ring"][(11 + i) % RING] = (12 + i) << 32 | token
        wanted["surprise"][slot] = limit
        if ledger != NO_LEDGER:
            wanted["seen"][ledger, token] += 1
            wanted["history"][ledger, place] = token
            if 0 < params.repeat_last_n <= place:
                wanted["seen"][ledger, wanted["history"][ledger, place - params.repeat_last_n], 1] -= np.uint32(1)
        if params.mirostat:
            assert held["surprises"][(11 + i) % RING] == held["surprise"][slot]
        logits = before["logits"][i].astype(np.float64)
        if shown & LISTED:
            mine = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            logprob, best = top_logprobs(held["entries"][(11 + i) % 16], 12)
            assert logprob == pytest.approx(mine[token], abs=3e-5)
            assert [value for _, value in best] == pytest.approx(np.sort(mine)[::-1][:12], abs=3e-5)
        if shown & EXPORTED:
            np.testing.assert_array_equal(held["exported"][ledger], before["logits"][i])
    for name, array in wanted.items():
        np.testing.assert_allclose(held[name].astype(np.float64), array.astype(np.float64), atol=1e-4, err_msg=name)
    assert held["count"][0] == 11 + ends
    for name in ("histogram", "arrived", "sieved", "top_arrived"):
        assert not held[name].any(), name
    # Whoever is not asked for has nothing.
    assert np.count_nonzero(held["entries"]["count"]) == sum(bool(shown & LISTED) for *_, shown, _ in expected)


def test_rows_come_to_the_front(library: SimLibrary) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 72)).astype(np.float32)
    lines = [(0, 1, 3, 0), (1, 1, 5, 1), (2, 9, 2, NO_END), (11, 7, 0, 2), (18, 1, 4, 3), (19, 21, 1, 4), (40, 1, 6, 9)]
    held = [aligned(a) for a in (np.array([5, 6, 0, 0], np.int32), np.array(lines, np.int32), rows)]
    assert library.launch("gather", held, (2, 1, 1), THREADS, library.integer("gather_shared"), resident=True) == ""
    wanted = rows.copy()
    wanted[:5, :70] = rows[[0, 1, 17, 18, 39], :70]
    np.testing.assert_array_equal(held[2], wanted)
