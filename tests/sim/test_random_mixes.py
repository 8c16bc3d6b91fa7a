"""With `deterministic`, and with kernels as they are compiled: the same bits in any mix of requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_runtime.engine import Engine
from model_checks import compile_fixture
from random_mixes import check


@pytest.mark.parametrize(
    ("seed", "count", "tokens", "schedules"),
    [(0, 4, 12, 2), pytest.param(1, 6, 200, 20, marks=pytest.mark.thorough)],
)
def test_everybody_gets_their_own_bits(tmp_path: Path, seed: int, count: int, tokens: int, schedules: int) -> None:
    file = compile_fixture(tmp_path, "qwen3", "Q8_0", "sim")
    with (
        Engine.load(file, target="sim", deterministic=True) as engine,
        Engine.load(file, target="sim", deterministic=True, prefix_cache=False) as plain,
    ):
        check(engine, plain, seed, count=count, prompt=60, tokens=tokens, schedules=schedules)
