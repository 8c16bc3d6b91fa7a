"""Logits with the prefix cache and without, on any target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imp_runtime.engine import Engine
from imp_runtime.plan import TOP_LOGPROBS
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence

# So many log-probabilities bring all logits to the host.
GREEDY = SamplingParams(max_tokens=8, ignore_eos=True, top_logprobs=TOP_LOGPROBS + 1)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 500, length)]


def run(engine: Engine, *prompts: list[int]) -> list[tuple[Sequence, npt.NDArray[np.float32]]]:
    """Each prompt's sequence, all at the same time, with the logits of every token: float32 [tokens, vocab]."""
    sequences = [engine.add(prompt, GREEDY) for prompt in prompts]
    rows: dict[int, list[npt.NDArray[np.float32]]] = {s.id: [] for s in sequences}
    while engine.has_work:
        ledgers = {s.id: s.ledger for s in sequences}
        for output in engine.step():
            rows[output.sequence.id].append(engine.runner.logits[ledgers[output.sequence.id]].copy())
    return [(s, np.array(rows[s.id])) for s in sequences]


def check(found: tuple[Sequence, npt.NDArray[np.float32]], plain: Engine, cached: int) -> None:
    """As without a cache, and `cached` tokens came from it."""
    sequence, logits = found
    ((alone, truth),) = run(plain, list(sequence.prompt))
    assert alone.prompt_cached == 0
    assert sequence.prompt_cached == cached
    assert sequence.generated == alone.generated
    assert np.ptp(logits, axis=1).min() > 0
    np.testing.assert_array_equal(logits, truth)
