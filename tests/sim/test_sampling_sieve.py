"""The kernels that know all filters, DRY and a repetition window, on the CPU, against the host's sampler.

The host computes in float64, the kernels in float32 and integers; with these seeds no rounding decides.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sim_library import SimLibrary
from test_sampling_stages import FAR, NO_TOKEN, SHAPES, Sampler, compile_kernels

from imp_runtime.host_sampler import HostSampler
from imp_runtime.plan import MASKED
from imp_runtime.sampling import SamplingParams

Array = NDArray[Any]
KNOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 3.0},
    "top-k": {"top_k": 20},
    "top-p": {"top_p": 0.7},
    "top-p and min-p": {"top_p": 0.95, "min_p": 0.1, "temperature": 0.6},
    "typical": {"typical_p": 0.6},
    "typical, nearly all": {"typical_p": 0.98, "temperature": 1.4},
    "typical, one": {"typical_p": 0.0},
    "typical of few": {"typical_p": 0.7, "top_k": 12},
    "typical, min-p": {"typical_p": 0.5, "min_p": 0.3},
    "typical, cold": {"typical_p": 0.8, "temperature": 0.01},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    "xtc, by chance": {"xtc_probability": 0.5, "xtc_threshold": 0.02},
    "xtc, all": {"xtc_probability": 1.0, "xtc_threshold": 0.0},
    "xtc, none": {"xtc_probability": 1.0, "xtc_threshold": 0.9},
    "xtc, cold": {"xtc_probability": 1.0, "xtc_threshold": 0.03, "temperature": 0.01},
    "all": {"top_k": 40, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02, "xtc_probability": 0.7, "temperature": 1.2},
    "mirostat": {"mirostat": 2, "mirostat_tau": 3.0},
    "mirostat, narrow": {"mirostat": 2, "mirostat_tau": 0.5, "mirostat_eta": 0.9, "temperature": 0.7},
    "mirostat, wide": {"mirostat": 2, "mirostat_tau": 20.0, "temperature": 5.0},
    "biased": {"logit_bias": ((3, 4.0), (5, -1000.0)), "typical_p": 0.9},
    "penalties": {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "presence_penalty": 0.2, "typical_p": 0.9},
    "window": {"repetition_penalty": 1.8, "repeat_last_n": 5, "xtc_probability": 0.5},
    "dry": {"dry_multiplier": 1.5, "typical_p": 0.9},
}
NINE = np.full(203, 9, np.uint32)  # times recent, of each token
LOGITS = ("wide", "flat", "ties", "peaked", "equal", "near", "far")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return compile_kernels(tmp_path_factory.mktemp("sieve"), "plain")


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> SimLibrary:
    return compile_kernels(tmp_path_factory.mktemp("sieve"), "check")


def row(kind: str, vocab: int, rng: np.random.Generator) -> Array:
    """Logits of a shape: also equal ones, and ones that differ in their last bit."""
    normal = rng.standard_normal(vocab)
    if kind == "ties":
        logits = rng.integers(-3, 6, vocab).astype(np.float64)
    elif kind == "peaked":
        logits = normal.copy()
        logits[rng.permutation(vocab)[:8]] += rng.exponential(6, 8)
    elif kind == "near":
        logits = np.float32(11.0) + rng.integers(0, 4, vocab) * np.spacing(np.float32(11.0))
    else:
        logits = normal * {"wide": 3.0, "flat": 0.05, "equal": 0.0, "far": 200.0}[kind]
    return logits.astype(np.float32)


def play(
    library: SimLibrary, vocab: int, params: SamplingParams, kind: str, seed: int, steps: int = 6, sieve: bool = True
) -> None:
    """Some tokens one after the other, by the kernels in a random order of threads and by the host."""
    rng = np.random.default_rng([seed, vocab])
    device, host = Sampler(library, vocab), HostSampler(params, seed)
    device.surprise = 2 * params.mirostat_tau
    prompt = rng.integers(0, min(vocab, 6), 14).tolist()
    generated: list[int] = []
    for step in range(steps):
        logits = row(kind, vocab, rng)
        logits[generated[-2:]] += np.float32(1)  # so that something is there to be repeated
        mask = None if (seed + step) % 4 else rng.random(vocab) < 0.3
        if mask is not None and not mask.any():
            mask[7] = True
        history = prompt + generated
        record = params.record(seed, 2)[0].copy()
        record["flags"] |= 0 if mask is None else MASKED
        seen = np.bincount(generated, minlength=vocab).astype(np.uint32)
        last_n = len(history) if params.repeat_last_n < 0 else params.repeat_last_n
        recent = np.bincount(history[max(0, len(history) - last_n) :], minlength=vocab).astype(np.uint32)
        token = device.draw(
            logits, seen, record, len(history) - 1, seed * 100 + step, mask, params.bias(vocab), sieve=sieve,
            history=history, breakers=params.breakers(), recent=recent,
        )  # fmt: skip
        expected = host.choose(logits, mask, prompt, generated)
        assert token == expected, f"step {step} of {kind}, seed {seed}: {token} instead of {expected}"
        assert device.surprise == pytest.approx(host.surprise_limit, abs=1e-4)
        generated.append(token)


@pytest.mark.parametrize("vocab", SHAPES)
@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_the_tokens_are_the_hosts(library: SimLibrary, vocab: int, knobs: dict[str, Any]) -> None:
    params = SamplingParams(**{"temperature": 1.0, **knobs})
    for kind in LOGITS if vocab < 1000 else ("wide", "near"):
        for seed in range(3 if vocab < 1000 else 1):
            play(library, vocab, params, kind, seed, steps=4)


@pytest.mark.parametrize("knobs", [KNOBS["all"], KNOBS["mirostat"], KNOBS["dry"]], ids=["all", "mirostat", "dry"])
def test_without_a_race(checked: SimLibrary, knobs: dict[str, Any]) -> None:
    """In check mode: every order of threads that it tries, and whether each read comes after what it reads."""
    for seed in range(2):
        play(checked, 203, SamplingParams(**{"temperature": 1.0, **knobs}), "wide", seed, steps=4)


@pytest.mark.parametrize("knobs", [KNOBS["all"], KNOBS["mirostat"]], ids=["all", "mirostat"])
def test_slices_too_long_for_shared_memory(tmp_path: Path, knobs: dict[str, Any]) -> None:
    library = compile_kernels(tmp_path, "plain", FAR)
    for vocab in FAR:
        play(library, vocab, SamplingParams(**{"temperature": 1.0, **knobs}), "wide", 1, steps=3)


REPEATS: dict[str, dict[str, Any]] = {
    "dry": {"dry_multiplier": 0.8},
    "dry, hard": {"dry_multiplier": 100.0, "dry_base": 100.0, "dry_allowed_length": 1},
    "dry, long": {"dry_multiplier": 3.0, "dry_allowed_length": 3},
    "dry, never": {"dry_multiplier": 3.0, "dry_allowed_length": 2**31 - 1},
    "dry, base 1": {"dry_multiplier": 3.0, "dry_base": 1.0},
    "dry, window": {"dry_multiplier": 3.0, "dry_penalty_last_n": 5},
    "dry, no window": {"dry_multiplier": 3.0, "dry_penalty_last_n": 0},
    "dry, breakers": {
        "dry_multiplier": 3.0,
        "dry_allowed_length": 1,
        "dry_sequence_breakers": ((2,), (), (1, 3), (4, 0, 4)),
    },
    "window": {"repetition_penalty": 2.0, "repeat_last_n": 3},
    "window of one": {"repetition_penalty": 2.0, "repeat_last_n": 1},
    "no window": {"repetition_penalty": 2.0, "repeat_last_n": 0},
    "wide window": {"repetition_penalty": 2.0, "repeat_last_n": 500, "frequency_penalty": 0.5},
}


@pytest.mark.parametrize("vocab", SHAPES)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("knobs", REPEATS.values(), ids=REPEATS)
def test_what_the_sequence_says_already(
    library: SimLibrary, vocab: int, temperature: float, knobs: dict[str, Any]
) -> None:
    """DRY and windows, in the kernels that know no more than them."""
    params = SamplingParams(temperature=temperature, **knobs)
    for seed in range(5 if vocab < 1000 else 1):
        play(library, vocab, params, "wide" if seed % 2 else "flat", seed, steps=10, sieve=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_logits_that_are_no_numbers_give_no_token(library: SimLibrary, knobs: dict[str, Any], bad: float) -> None:
    logits = np.random.default_rng(3).standard_normal(203).astype(np.float32)
    logits[150] = bad
    record = SamplingParams(**{"temperature": 1.0, **knobs}).record(1, 2)[0]
    device = Sampler(library, 203)
    assert (
        device.draw(logits, np.zeros(203, np.uint32), record, 5, 0, sieve=True, history=range(6), recent=NINE)
        == NO_TOKEN
    )
    logits[150] = 9
    assert (
        device.draw(logits, np.zeros(203, np.uint32), record, 5, 0, sieve=True, history=range(6), recent=NINE)
        != NO_TOKEN
    )


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_one_allowed_token_is_always_chosen(library: SimLibrary, knobs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    record = SamplingParams(**{"temperature": 1.0, **knobs, "logit_bias": ()}).record(1, 2)[0].copy()
    record["flags"] |= MASKED
    for token in (0, 31, 202):
        logits = (rng.standard_normal(203) * 30).astype(np.float32)
        logits[token] -= 500
        mask = np.arange(203) == token
        assert (
            Sampler(library, 203).draw(
                logits, np.zeros(203, np.uint32), record, 5, 0, mask, sieve=True, history=range(6), recent=NINE
            )
            == token
        )
