"""A hundred random mixes of requests on a GPU: with `deterministic` everybody gets the bits that they get alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_runtime.engine import Engine
from model_checks import quiet
from random_mixes import check

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"


@pytest.mark.parametrize(("form", "seeds"), [("graph", 10), ("persistent", 2)])
def test_everybody_gets_their_own_bits(tmp_path: Path, target: str, form: str, seeds: int) -> None:
    file = tmp_path / "demo.impc"
    options = CompileOptions(form="graph" if form == "graph" else "persistent")
    compile_model(DEMO, file, (target,), options, quiet)
    with (
        Engine.load(file, target=target, deterministic=True) as engine,
        Engine.load(file, target=target, deterministic=True, prefix_cache=False) as plain,
    ):
        for seed in range(seeds):
            check(engine, plain, seed, count=5, prompt=300, tokens=200, schedules=10)
