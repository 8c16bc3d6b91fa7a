"""The checks of `imp verify --text`.

Those of `text` look at answers: what they find may be the model's own way to speak, and is that of random weights by
nature. Those of `numbers` compare roads to the same logits, and hold for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from imp_runtime.sampling import SamplingParams
from imp_server.coherence import texts
from imp_server.coherence.answers import LISTED, Answer, Reading, ask, disagreement, read
from imp_server.coherence.prompts import PROMPTS, Prompt, tokens_of
from imp_server.model import Model

SEED = 20260101
Progress = Callable[[str, int, int], None]
Sampling = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the answer to a prompt."""

    prompt: str
    sampling: Sampling
    what: str


@dataclass(frozen=True, slots=True)
class Check:
    """`asks` is what it demands, for people; `looked_at` counts the answers that it could look at."""

    name: str
    kind: Literal["text", "numbers"]
    asks: str
    looked_at: int
    faults: tuple[Fault, ...]

    @property
    def verdict(self) -> str:
        """`ok`, what the faults are, or that there was nothing to look at."""
        if self.faults:
            return _FAULTS[self.name]
        return "ok" if self.looked_at else "not run"


_FAULTS = {
    "finite": "NOT FINITE",
    "loops": "LOOPS",
    "dead tokens": "DEAD",
    "vocabulary": "UNKNOWN",
    "special tokens": "SPECIAL",
    "utf-8": "BROKEN",
    **dict.fromkeys(("prefix cache", "batch", "prompt", "seed", "form"), "DIFFERS"),
}


@dataclass(frozen=True, slots=True)
class Examination:
    """What a model has answered; each list has an answer for every prompt.

    `alone` and `cached` are greedy, the second behind a hit in the prefix cache, `together` greedy among others.
    `sampled` are two answers with the same seed. `readings` are of `alone`.
    """

    prompts: tuple[Prompt, ...]
    model: Model
    alone: list[Answer]
    cached: list[Answer]
    together: list[Answer]
    sampled: tuple[list[Answer], list[Answer]]
    readings: list[Reading]


def examine(model: Model, tokens: int, progress: Progress, prompts: Sequence[Prompt] = PROMPTS) -> Examination:
    """Ask for answers of at most so many tokens, one by one and all together."""
    engine, (greedy, sampled) = model.engine, _params(tokens)
    asked = [tokens_of(model, prompt, max(1, engine.context - tokens)) for prompt in prompts]
    total, done = 5 * len(asked) + 1, 0

    def answers(params: SamplingParams) -> list[Answer]:
        nonlocal done
        found = []
        for prompt in asked:
            progress("ask", done, total)
            found += ask(engine, [(prompt, params)])
            done += 1
        return found

    alone, cached, first, second = (answers(params) for params in (greedy, greedy, sampled, sampled))
    progress("ask", done, total)
    together = ask(engine, [(prompt, params) for params in (greedy, sampled) for prompt in asked])[: len(asked)]
    readings = []
    for answer in alone:
        done += 1
        progress("ask", done, total)
        readings.append(read(engine, answer))
    progress("ask", total, total)
    return Examination(tuple(prompts), model, alone, cached, together, (first, second), readings)


def _params(tokens: int) -> tuple[SamplingParams, SamplingParams]:
    """Greedy and sampled."""
    greedy = SamplingParams(max_tokens=tokens, top_logprobs=LISTED)
    return greedy, SamplingParams(max_tokens=tokens, temperature=0.7, top_p=0.95, seed=SEED)


def checks_of(found: Examination) -> list[Check]:
    """All checks of one engine; `form_check` has that of two."""
    return [_finite(found), *_text_checks(found), *_comparisons(found)]


def form_check(found: Examination, other: Model | None, progress: Progress) -> Check:
    """The same greedy answers by the other form of a decode step; None: there is no other."""
    if other is None:
        return Check("form", "numbers", "nothing: a decode step has one form here", 0, ())
    answers = []
    greedy, _ = _params(max(1, *(len(answer.choices) for answer in found.alone)))
    for i, answer in enumerate(found.alone):
        progress("ask in the other form", i, len(found.alone))
        answers += ask(other.engine, [(answer.prompt, greedy)])
    progress("ask in the other form", len(found.alone), len(found.alone))
    return _same(found, "form", "the graph of kernels answers as the persistent kernel does", answers)


def _finite(found: Examination) -> Check:
    faults = []
    greedy, sampled = (found.alone, found.cached, found.together), found.sampled
    runs: list[tuple[Sampling, list[Answer]]] = [("greedy", each) for each in greedy]
    for sampling, answers in [*runs, *(("sampled", each) for each in sampled)]:
        for prompt, answer in zip(found.prompts, answers, strict=True):
            if answer.finish == "error":
                what = f"no finite logits after {len(answer.choices)} tokens"
                faults.append(Fault(prompt.name, sampling, what))
    for prompt, reading in zip(found.prompts, found.readings, strict=True):
        if not reading.finite:
            faults.append(Fault(prompt.name, "greedy", "no finite logits where prompt and answer are read as a prompt"))
    asks = "all logits are finite numbers"
    return Check("finite", "numbers", asks, 6 * len(found.prompts), tuple(dict.fromkeys(faults)))


def _text_checks(found: Examination) -> list[Check]:
    tokenizer, form = found.model.tokenizer, found.model.chat_form
    answers: list[tuple[Prompt, Sampling, Answer]] = []
    for prompt, greedy, sampled in zip(found.prompts, found.alone, found.sampled[0], strict=True):
        answers += [(prompt, "greedy", greedy), (prompt, "sampled", sampled)]

    def check(name: str, asks: str, fault: Callable[[Prompt, Answer], str | None]) -> Check:
        told = [(prompt.name, sampling, fault(prompt, answer)) for prompt, sampling, answer in answers]
        faults = (Fault(prompt, sampling, what) for prompt, sampling, what in told if what is not None)
        return Check(name, "text", asks, len(answers), tuple(faults))

    def special(prompt: Prompt, answer: Answer) -> str | None:
        family = form.parsers if form is not None and prompt.chat else None
        return texts.special_token(answer.said, tokenizer, family, answer.prompt)

    return [
        check(
            "loops",
            f"no end of {texts.REPEATS} times the same {texts.PERIOD} tokens or fewer, {texts.LOOP_TOKENS} in all",
            lambda prompt, answer: None if prompt.repetitive else texts.loop(answer.said),
        ),
        check(
            "dead tokens",
            f"no token {texts.DEAD_RUN} times in succession",
            lambda _, answer: texts.dead_token(answer.said),
        ),
        check(
            "vocabulary",
            "all tokens are the tokenizer's",
            lambda _, answer: texts.unknown_token(answer.tokens, tokenizer),
        ),
        check("special tokens", "none within the text", special),
        check(
            "utf-8",
            "the bytes are UTF-8",
            lambda _, answer: texts.broken_bytes(answer.said, tokenizer, cut=answer.finish != "stop"),
        ),
    ]


def _comparisons(found: Examination) -> list[Check]:
    readings = [
        Fault(prompt.name, "greedy", reading.disagreement)
        for prompt, reading in zip(found.prompts, found.readings, strict=True)
        if reading.disagreement is not None
    ]
    seeds = [
        Fault(prompt.name, "sampled", f"{_first_difference(a.tokens, b.tokens)}, with the same seed")
        for prompt, a, b in zip(found.prompts, *found.sampled, strict=True)
        if a.tokens != b.tokens
    ]
    count = len(found.prompts)
    prompt = Check("prompt", "numbers", "the same where the answer is read as a prompt", count, tuple(readings))
    if found.model.engine.plan.prefill == "w4a4":
        prompt = Check("prompt", "numbers", "nothing: prompts are W4A4 here, and steps are not", 0, ())
    return [
        _same(found, "prefix cache", "the same behind a hit in the prefix cache", found.cached),
        _same(found, "batch", "the same among other sequences", found.together),
        prompt,
        Check("seed", "numbers", "the same tokens again with the same seed", count, tuple(seeds)),
    ]


def _same(found: Examination, name: str, asks: str, others: Sequence[Answer]) -> Check:
    told = [
        (prompt.name, disagreement(usual, other))
        for prompt, usual, other in zip(found.prompts, found.alone, others, strict=True)
    ]
    faults = tuple(Fault(prompt, "greedy", what) for prompt, what in told if what is not None)
    return Check(name, "numbers", asks, len(told), faults)


def _first_difference(a: Sequence[int], b: Sequence[int]) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shown = [f"token {tokens[at]}" if at < len(tokens) else "the end" for tokens in (a, b)]
    return f"at step {at + 1} {shown[0]}, then {shown[1]}"
