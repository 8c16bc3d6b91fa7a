"""What `make bench` should give: the compiler's cost model for each test of the table, beside what was measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from imp_codegen.cards import Card, fast_cards
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.layouts import placement
from imp_codegen.predict import predict_us, step_tiles_us
from imp_codegen.targets import find_target
from imp_runtime.errors import ImpError
from imp_runtime.plan import Kernel, Plan
from imp_server.commands.bench_speed import DECODE

Key = tuple[str, str, str, str]  # gpu, model, quant, test


def find_cards(names: str) -> tuple[Card, ...]:
    """Cards by their names with commas between."""
    for name in names.split(","):
        if name not in fast_cards():
            raise ImpError(f"--gpu {name} is unknown; known: {', '.join(sorted(fast_cards()))}")
    return tuple(fast_cards()[name] for name in names.split(","))


def plan_shape(shape: Path, quant: str, card: Card) -> Plan:
    """The plan of a config.json's shape, or of a GGUF file, for one card; nothing is built or packed."""
    target = find_target(f"{card.target}:{card.name}")
    with closing(random_checkpoint(shape, quant) if shape.suffix == ".json" else open_checkpoint(shape)) as checkpoint:
        return plan_model(checkpoint, (target,), CompileOptions()).plan


def predict_decode(plan: Plan, card: Card, positions: float) -> float:
    """Tokens per second of decode with a cache of `positions` tokens on average."""
    kernels = plan.targets[0].program(DECODE).kernels
    return 1e6 / sum(max(predict_us(card, (each,), round(positions)), _tiles_us(plan, card, each)) for each in kernels)


def _tiles_us(plan: Plan, card: Card, kernel: Kernel) -> float:
    """What the tiles of the step kernel take, if it is that."""
    if not kernel.resident:
        return 0.0
    bound = {argument.buffer for argument in kernel.args}
    planes = [plane for plane in plan.planes if f"weights/{plane.name}" in bound and plane.layout != "vector"]
    return step_tiles_us(card, ((plane.rows, plane.cols, placement(plane)[1]) for plane in planes))


def predict_prompt(plan: Plan, card: Card, tokens: int) -> float:
    """Tokens per second of a prompt from an empty cache, chunk by chunk, and the token that follows.

    Each chunk is run by the smallest program that takes it.
    """
    target = plan.targets[0]
    several = (program for program in target.programs if program.name.startswith("forward_r") and program.rows > 1)
    chunks = sorted(several, key=lambda program: program.rows)
    last = (*target.program("head_r1").kernels, *target.program("sample_r1").kernels)
    us = predict_us(card, last, tokens)
    for begin in range(0, tokens, plan.rows):
        rows = min(plan.rows, tokens - begin)
        chunk = next(program for program in chunks if program.rows >= rows)
        us += predict_us(card, chunk.kernels, begin + rows)
    return 1e6 * tokens / us


def read_measured(path: Path) -> Mapping[Key, float]:
    """The newest figure of each test, tokens per second."""
    rows = sorted(json.loads(path.read_text("utf-8")), key=lambda row: row["date"])
    return {(row["gpu"], row["model"], row["quant"], row["test"]): row["tokens_per_second"] for row in rows}


def predictions(
    cases: Sequence[tuple[Path, str, Sequence[int]]],
    prompts: Sequence[int],
    generate: int,
    cards: Sequence[Card],
    measured: Mapping[Key, float],
) -> Iterator[dict[str, object]]:
    """A row for each test of `cases` (shape, quant, depths), prompts that the model's context holds first.

    For each card the prediction, and where there is one the measured figure and how far the prediction is above it, as
    a share of it.
    """
    for shape, quant, depths in cases:
        plans = [(card, plan_shape(shape, quant, card)) for card in cards]
        tests: dict[str, Callable[[Plan, Card], float]] = {}
        for tokens in prompts:
            if all(tokens < plan.context for _, plan in plans):
                tests[f"pp{tokens}"] = functools.partial(predict_prompt, tokens=tokens)
        for depth in depths:
            positions = max(depth, 1) + (generate + 1) / 2
            name = f"tg{generate}" + (f" @ d{depth}" if depth else "")
            tests[name] = functools.partial(predict_decode, positions=positions)
        for test, predict in tests.items():
            row: dict[str, object] = {"model": shape.stem, "quant": quant, "test": test}
            for card, plan in plans:
                rate = predict(plan, card)
                row[f"{card.name} predicted"] = rate
                known = measured.get((card.title, shape.stem, quant, test))
                if known is not None:
                    row |= {f"{card.name} measured": known, f"{card.name} error": rate / known - 1}
            yield row
