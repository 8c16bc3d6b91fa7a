"""Steps of several sequences in one program on the simulator: the tokens of each are those of its rows run alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence
from model_checks import quiet
from prefix_checks import prompt_of

DEMO = Path(__file__).parents[2] / "models" / "demo.gguf"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "demo.impc"
    target = replace(find_target("sim"), batches=(8,))
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        compile_model(DEMO, output, ("sim",), CompileOptions(), quiet)
    return output


def answers(engine: Engine, several: list[SamplingParams]) -> tuple[list[Sequence], Counter[str]]:
    """Sequences with these records that run together, and how often each program was run."""
    ran: Counter[str] = Counter()
    run = engine.runner.run

    def counted(program: str) -> None:
        ran[program] += 1
        run(program)

    engine.runner.run = counted  # type: ignore[method-assign]
    every = [engine.add(prompt_of(5 + 9 * i, i), params) for i, params in enumerate(several)]
    while engine.has_work:
        engine.step()
    return every, ran


def test_the_likeliest_tokens(artifact: Path) -> None:
    """Rows beside others have the very logits that they have in a program of their own sequence's rows."""
    params = [SamplingParams(max_tokens=6 + i, ignore_eos=True) for i in range(4)]
    with Engine.load(artifact, target="sim", prefix_cache=False) as engine:
        every, ran = answers(engine, params)
        assert ran["pick_r1"] >= 4 * 5
        assert ran["step_r1"] <= 3, "only the last tokens of the longest are alone"
        for sequence in every:
            best = engine.logits(sequence.tokens(0, sequence.known)).argmax(axis=1)
            # The first token is the prompt's, whose head is that of one row.
            first = len(sequence.prompt)
            assert sequence.generated[1:6] == best[first : first + 5].tolist()


def test_every_kind_of_sampling_side_by_side(artifact: Path) -> None:
    """A seed's tokens beside others are its tokens alone: the demo's logits are far enough apart."""
    params = [
        SamplingParams(temperature=0.7, top_k=20, seed=1, max_tokens=6, ignore_eos=True),
        SamplingParams(temperature=1.0, top_p=0.9, seed=2, max_tokens=6, ignore_eos=True),
        SamplingParams(temperature=0.8, presence_penalty=0.5, seed=3, max_tokens=6, ignore_eos=True),
        SamplingParams(temperature=0.8, typical_p=0.8, seed=4, max_tokens=6, ignore_eos=True),
    ]
    with Engine.load(artifact, target="sim", prefix_cache=False) as engine:
        beside, ran = answers(engine, params)
        assert ran["pick_r1"] > 12
    with Engine.load(artifact, target="sim", prefix_cache=False, deterministic=True) as engine:
        alone, ran = answers(engine, params)
        assert ran["pick_r1"] == 0
    assert [s.generated for s in beside] == [s.generated for s in alone]
