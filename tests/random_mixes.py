"""Requests that come, end and are aborted at random times beside one another, on any target: each gets its own bits."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence

# Log-probabilities show a bit of the logits that is another one though the token is not.
_PARAMS = (
    SamplingParams(ignore_eos=True, top_logprobs=1),
    SamplingParams(ignore_eos=True, top_logprobs=1, temperature=0.8, seed=1),
    SamplingParams(ignore_eos=True),
    SamplingParams(ignore_eos=True, temperature=1.0, top_p=0.9, presence_penalty=0.5, seed=2),
)
_BEGINNINGS = 3  # that prompts have in common

Answer = tuple[tuple[int, float | None], ...]  # each token, with its log-probability where that was asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    prompt: tuple[int, ...]
    params: SamplingParams


def requests(rng: random.Random, count: int, longest_prompt: int, tokens: int) -> list[Asked]:
    """Prompts of up to `longest_prompt` tokens, half of which begin alike; answers of `tokens` tokens and some more."""
    beginnings = [[rng.randrange(3, 250) for _ in range(longest_prompt)] for _ in range(_BEGINNINGS)]
    found = []
    for _ in range(count):
        shared = rng.choice(beginnings)[: rng.choice((0, rng.randint(0, longest_prompt)))]
        own = [rng.randrange(3, 250) for _ in range(rng.randint(1, max(longest_prompt - len(shared), 1)))]
        params = replace(rng.choice(_PARAMS), max_tokens=tokens + rng.randrange(tokens // 10 + 1))
        found.append(Asked((*shared, *own), params))
    return found


def alone(engine: Engine, asked: Asked) -> Answer:
    """What a request gets that nobody is beside."""
    engine.add(asked.prompt, asked.params)
    answer: list[tuple[int, float | None]] = []
    while engine.has_work:
        answer += [(output.token, output.logprob) for output in engine.step()]
    return tuple(answer)


def mixed(engine: Engine, rng: random.Random, every: list[Asked], aborts: float) -> dict[int, Answer]:
    """What each of `every` gets, by its place, coming in any order at any time; without those that were aborted."""
    left = rng.sample(range(len(every)), len(every))
    places: dict[Sequence, int] = {}
    answers: dict[int, list[tuple[int, float | None]]] = {}
    pace = rng.choice((0.01, 0.1, 1.0))  # of arrivals, a step
    while left or engine.has_work:
        while left and (rng.random() < pace or not engine.has_work):
            place = left.pop()
            places[engine.add(every[place].prompt, every[place].params)] = place
            answers[place] = []
        if places and rng.random() < aborts:
            engine.abort(gone := rng.choice(list(places)))
            answers.pop(places.pop(gone), None)
        for output in engine.step():
            if output.sequence in places:
                answers[places[output.sequence]].append((output.token, output.logprob))
    return {place: tuple(answer) for place, answer in answers.items()}


def check(engine: Engine, plain: Engine, seed: int, *, count: int, prompt: int, tokens: int, schedules: int) -> None:
    """In any of `schedules` mixes of `count` requests everybody gets what they get of `plain`, where they are alone.

    At the end nothing of the engine is taken.
    """
    rng = random.Random(seed)
    free = engine.free
    every = requests(rng, count, prompt, tokens)
    wanted = [alone(plain, asked) for asked in every]
    for _ in range(schedules):
        found = mixed(engine, rng, every, aborts=0.1 / tokens)
        assert len(found) > 1
        for place, answer in found.items():
            assert len(answer) >= tokens
            assert answer == wanted[place], (seed, place)
        assert engine.free == free
