"""What `make bench` should give: the compiler's cost model for each test of the table, beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import Gpu, find_target, gpus, predict_us, targets
from imp_runtime.errors import ImpError
from imp_runtime.plan import Plan
from imp_server.commands.bench_kernels import launch_bytes
from imp_server.commands.bench_speed import DECODE

Key = tuple[str, str, str, str]  # gpu, model, quant, test


def find_gpus(names: str) -> tuple[Gpu, ...]:
    """Cards by their names with commas between."""
    for name in names.split(","):
        if name not in gpus():
            raise ImpError(f"--gpu {name} is unknown; known: {', '.join(sorted(gpus()))}")
    return tuple(gpus()[name] for name in names.split(","))


def plan_shape(shape: Path, quant: str, cards: Sequence[Gpu]) -> Plan:
    """The plan of a config.json's shape, or of a GGUF file, for the cards' targets; nothing is built or packed."""
    names = dict.fromkeys(_target(card) for card in cards)
    with closing(random_checkpoint(shape, quant) if shape.suffix == ".json" else open_checkpoint(shape)) as checkpoint:
        return plan_model(checkpoint, tuple(map(find_target, names)), CompileOptions()).plan


def predict_decode(plan: Plan, card: Gpu, positions: float) -> float:
    """Tokens per second of decode with a cache of `positions` tokens on average: a launch's bytes, and its overhead."""
    kernels = plan.target(_target(card)).program(DECODE).kernels
    moved = [replace(k, weight_bytes=launch_bytes(k, round(positions)), other_bytes=0) for k in kernels]
    return 1e6 / sum(predict_us(card, kernel) for kernel in moved)


def _target(card: Gpu) -> str:
    return next(target.name for target in targets().values() if card in target.gpus)


def read_measured(path: Path) -> Mapping[Key, float]:
    """The newest figure of each test, tokens per second."""
    rows = sorted(json.loads(path.read_text("utf-8")), key=lambda row: row["date"])
    return {(row["gpu"], row["model"], row["quant"], row["test"]): row["tokens_per_second"] for row in rows}


def predictions(
    cases: Sequence[tuple[Path, str, Sequence[int]]], generate: int, cards: Sequence[Gpu], measured: Mapping[Key, float]
) -> Iterator[dict[str, object]]:
    """A row for each test of `cases` (shape, quant, depths): for each card the prediction, and where there is one the
    measured figure and how far the prediction is above it, as a share of it.
    """
    for shape, quant, depths in cases:
        plan = plan_shape(shape, quant, cards)
        for depth in depths:
            test = f"tg{generate}" + (f" @ d{depth}" if depth else "")
            row: dict[str, object] = {"model": shape.stem, "quant": quant, "test": test}
            for card in cards:
                rate = predict_decode(plan, card, max(depth, 1) + (generate + 1) / 2)
                row[f"{card.name} predicted"] = rate
                known = measured.get((card.title, shape.stem, quant, test))
                if known is not None:
                    row |= {f"{card.name} measured": known, f"{card.name} error": rate / known - 1}
            yield row
