"""Answers of an engine with what each choice was made from, and whether two of them can be of the same logits.

Two roads to the same logits (steps and prompts, alone and among others, one kernel and many) add up in other orders, so
bits differ, and of two tokens that are nearly as likely either may be chosen (docs/determinism.md). What follows after
that is another text. So two answers agree if, up to the first place at which they have different tokens, each token's
log-probability is the same but for MARGIN, and at that place those of the two tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imp_runtime.divergence import log_softmax
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams

MARGIN = 0.5
"""Nats. On the simulator, steps and prompts gave chosen tokens log-probabilities that were up to 0.05 apart in the demo
model and 0.19 in tiny ones; where another token came out as the likeliest, it had been less likely by up to 0.23. One
that is computed from a wrong row of the cache is off by nats."""
LISTED = 8  # tokens of each step whose log-probabilities are compared

Asked = tuple[Sequence[int], SamplingParams]


@dataclass(frozen=True, slots=True)
class Choice:
    """A token that was chosen, the natural logarithm of its probability, and those of the likeliest tokens."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def difference(self, token: int, logprob: float) -> str | None:
        """Why `token` with its log-probability cannot be a choice from the same logits; None where it can."""
        if token != self.token:
            known = {**dict(self.top), self.token: self.logprob}
            margin = self.logprob - known.get(token, min(known.values()))
            near = margin <= MARGIN
            return None if near else f"token {token} in place of {self.token}, which is likelier by {margin:.2f} nats"
        drift = abs(logprob - self.logprob)
        return None if drift <= MARGIN else f"the log-probability of token {token} differs by {drift:.2f}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came after a prompt. With `finish` "error" the logits after the last choice were no finite numbers."""

    prompt: tuple[int, ...]
    choices: tuple[Choice, ...]
    finish: Literal["stop", "length", "error"]

    @property
    def tokens(self) -> list[int]:
        """All that was chosen."""
        return [choice.token for choice in self.choices]

    @property
    def said(self) -> list[int]:
        """The same without the stop token."""
        return self.tokens[:-1] if self.finish == "stop" else self.tokens


def ask(engine: Engine, asked: Sequence[Asked]) -> list[Answer]:
    """The answers to prompts that are asked all at once."""
    sequences = [engine.add(prompt, params) for prompt, params in asked]
    choices: dict[int, list[Choice]] = {sequence.id: [] for sequence in sequences}
    ends: dict[int, Literal["stop", "length", "error"]] = {}
    while len(ends) < len(sequences):
        for output in engine.step():
            if output.finish != "error":
                logprob = output.logprob if output.logprob is not None else 0.0
                choices[output.sequence.id].append(Choice(output.token, logprob, output.top))
            if output.finish is not None:
                ends[output.sequence.id] = output.finish
    return [
        Answer(tuple(prompt), tuple(choices[sequence.id]), ends[sequence.id])
        for (prompt, _), sequence in zip(asked, sequences, strict=True)
    ]


def disagreement(usual: Answer, other: Answer) -> str | None:
    """Where and how two greedy answers to a prompt differ by more than rounding; None where they do not."""
    for step, (choice, found) in enumerate(zip(usual.choices, other.choices, strict=False), 1):
        if (why := choice.difference(found.token, found.logprob)) is not None:
            return f"at step {step} {why}"
        if choice.token != found.token:
            return None
    return None


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt with its answer read as one prompt: whether all logits are finite, and where the answer disagrees."""

    finite: bool
    disagreement: str | None


def read(engine: Engine, answer: Answer) -> Reading:
    """Of a greedy answer: each of its tokens beside the likeliest one by the programs of prompts."""
    tokens = (*answer.prompt, *answer.tokens)[: engine.context]
    first, place, why = len(answer.prompt) - 1, 0, None
    for rows in engine.logits_in_parts(tokens):
        if not np.isfinite(rows).all():
            return Reading(finite=False, disagreement=None)
        behind = log_softmax(rows[max(0, first - place) :]) if place + len(rows) > first else ()
        for i, row in enumerate(behind, max(0, place - first)):
            if i < len(answer.choices) and why is None:
                choice, likeliest = answer.choices[i], int(row.argmax())
                told = choice.difference(choice.token, float(row[choice.token])) or choice.difference(
                    likeliest, float(row[likeliest])
                )
                why = told and f"at step {i + 1} {told}"
        place += len(rows)
    return Reading(finite=True, disagreement=why)
