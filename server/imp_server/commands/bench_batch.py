"""`imp bench -b`: several sequences at once, each after a prompt of its own, the way llama-batched-bench does.

All prompts are computed before any sequence takes a step, and timed together. Then they are asked for once more, now
from the prefix cache, so that all begin to answer within a few steps; the time of generating runs from the token that
the last of them begins with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from imp_runtime.errors import ImpError
from imp_runtime.paging import Paging, blocks_for
from imp_runtime.plan import BLOCK_TOKENS
from imp_runtime.sampling import SamplingParams
from imp_server.commands.bench_speed import (
    SAMPLINGS,
    Clocks,
    Result,
    computed,
    name_of,
    random_prompt,
    repeated,
    result_of,
    with_bandwidth,
)

if TYPE_CHECKING:
    from imp_runtime.engine import Engine
    from imp_runtime.plan import Plan

Tokens = Sequence[int]


def parse_batches(text: str) -> list[int]:
    """`1,8,32` as numbers. Raises ImpError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ImpError(f"-b {text}: expected numbers of sequences from 1 on, such as 1,8,32,64")
    return [int(part) for part in parts]


def measure_batches(
    engine: Engine,
    batches: Sequence[int],
    prompt: int,
    generate: int,
    repetitions: int,
    depth: int,
    samplings: Sequence[str] = ("greedy",),
) -> list[Result]:
    """Results for so many sequences at once, of prompts and of `generate` tokens of each behind them.

    Each prompt has `prompt` tokens behind `depth` tokens that the prefix cache has. One run comes before, which does
    not count. Samplings (keys of SAMPLINGS) that want what an artifact has of few sequences are left out for more.
    Raises ImpError where slots, context or cache do not suffice.
    """
    start = max(depth + prompt, 1)
    for count in batches:
        _check(engine, count, start, generate)
    results = []
    for count in batches:
        possible = [name for name in samplings if count <= most_sequences(engine.plan, SAMPLINGS[name])]
        rounds = repeated(repetitions, partial(_round, engine, count, depth, start, generate, possible))
        if prompt:
            rates = [rate for rate, _ in rounds]
            results.append(result_of(engine, name_of("pp", prompt, depth, sequences=count), rates, count))
        for sampling, *spans in zip(possible, *(spans for _, spans in rounds), strict=True) if generate else ():
            name = name_of("tg", generate, start, sequences=count, sampling=sampling)
            result = result_of(engine, name, [tokens / span.wall for tokens, span in spans], count)
            cores = sum(span.cpu for _, span in spans) / sum(span.wall for _, span in spans)
            results.append(with_bandwidth(engine, dataclasses.replace(result, host_cores=cores), start, generate))
    return results


def most_sequences(plan: Plan, params: SamplingParams) -> int:
    """How many sequences with this sampling can run at the same time."""
    return plan.ledgers if params.adjusts or params.on_host else plan.slots


def tokens_needed(start: int, generate: int, count: int, rows: int) -> int:
    """Of each sequence: what is measured, and how far the first of `count` may be ahead of the last.

    The last block of each prompt runs once more, as many of them at a time as there are `rows`.
    """
    chunks = -(-count * BLOCK_TOKENS // rows)
    return start + generate + chunks + 2 * BLOCK_TOKENS


def _check(engine: Engine, count: int, start: int, generate: int) -> None:
    plan = engine.plan
    if count > plan.slots:
        raise ImpError(f"-b {count}: {engine.artifact.path} serves {plan.slots} sequences at once; ask for fewer")
    need = tokens_needed(start, generate, count, plan.rows)
    if need > engine.context:
        raise ImpError(
            f"-b {count} with {start} tokens before and {generate} to generate needs {need} tokens a sequence, "
            f"the context here is {engine.context}; ask for fewer"
        )
    blocks, have = count * Paging.of(plan).blocks(blocks_for(need)), engine.runner.blocks - 1
    if blocks > have:
        raise ImpError(
            f"-b {count}: {count} sequences of {need} tokens need {blocks} blocks of the cache, {have} are there; "
            "ask for fewer"
        )


def _round(
    engine: Engine, count: int, depth: int, start: int, generate: int, samplings: Sequence[str]
) -> tuple[float, list[tuple[int, Clocks]]]:
    """Tokens per second of prompts, and for each sampling how many tokens came in which time."""
    prompts = [random_prompt(engine, start) for _ in range(count)]
    before = depth if depth < start else 0
    if before:
        _compute(engine, [prompt[:before] for prompt in prompts], before)
    began = Clocks.now()
    tokens = _compute(engine, prompts, start - before)
    rate = tokens / (Clocks.now() - began).wall
    return rate, [_generate(engine, prompts, generate, SAMPLINGS[name]) for name in samplings] if generate else []


def _compute(engine: Engine, prompts: Sequence[Tokens], count: int) -> int:
    """Compute prompts and nothing else; how many tokens ran, `count` or some more of each."""
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    sequences = [engine.add(prompt, params) for prompt in prompts]
    while engine.has_work:
        engine.step()
    return sum(computed(sequence, count) for sequence in sequences)


def _generate(engine: Engine, prompts: Sequence[Tokens], count: int, params: SamplingParams) -> tuple[int, Clocks]:
    """Tokens of sequences that all run, `count` of each, and the time that they took."""
    from imp_runtime.engine import IN_FLIGHT

    endless = dataclasses.replace(params, max_tokens=engine.context, ignore_eos=True)
    sequences = [engine.add(prompt, endless) for prompt in prompts]
    silent = {sequence.id for sequence in sequences}
    while silent:
        silent -= {output.sequence.id for output in engine.step()}
    began, tokens = Clocks.now(), 0
    while tokens < count * len(prompts):
        tokens += len(engine.step())
    span = Clocks.now() - began
    for sequence in sequences:
        engine.abort(sequence)
    for _ in range(IN_FLIGHT):  # what was launched ahead, and is for nobody
        engine.step()
    return tokens, span
