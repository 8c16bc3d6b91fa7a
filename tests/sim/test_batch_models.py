"""Steps of several sequences through programs of their own, as on GPUs; nobody's answer depends on the others."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from imp_codegen import compiler
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence
from imp_runtime.sim import SimDevice
from model_checks import check_kernels, compile_fixture

BATCHES = (8, 16)
COUNTS = (1, 2, 7, 11)  # sequences beside each other


def compiled(folder: Path, architecture: str, quant: str, *, check: bool = False) -> Artifact:
    """A fixture with programs for steps of so many sequences."""
    target = replace(find_target("sim"), max_shared=227 << 10, batches=BATCHES)
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        return Artifact.open(compile_fixture(folder, architecture, quant, "sim", check=check))


def answers(engine: Engine, order: list[int]) -> dict[int, list[object]]:
    """What those of eleven sequences get that `order` names, in whose order they are added; and their steps."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 300, length).tolist() for length in rng.integers(2, 20, max(COUNTS))]
    params = SamplingParams(max_tokens=5, ignore_eos=True, top_logprobs=4)
    asked: dict[Sequence, int] = {engine.add(prompts[i], params): i for i in order}
    found: dict[int, list[object]] = {i: [] for i in order}
    while engine.has_work:
        for output in engine.step():
            found[asked[output.sequence]].append((output.token, output.logprob, output.top))
    return found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compiled(tmp_path_factory.mktemp("batch"), "llama", "Q8_0")


def test_kernels(artifact: Artifact) -> None:
    with Engine(artifact, SimDevice()) as engine:
        names = {f"batch_r{rows}" for rows in BATCHES}
        assert names <= {program.name for program in engine.runner.programs}
        check_kernels(engine)


def test_nobody_depends_on_others(artifact: Artifact) -> None:
    """Tokens and log-probabilities of those that go together, two or eleven, in any order."""
    rng = random.Random(1)
    with (
        Engine(artifact, SimDevice(), prefix_cache=False) as engine,
        patch.object(engine.runner, "run", wraps=engine.runner.run) as run,
    ):
        all_of = answers(engine, list(range(max(COUNTS))))
        for count in (2, 7):
            order = rng.sample(range(max(COUNTS)), count)
            for i, found in answers(engine, order).items():
                assert found == all_of[i]
    ran = {call.args[0] for call in run.call_args_list}
    assert {f"batch_r{rows}" for rows in BATCHES} <= ran


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("architecture", "quant"), [("qwen3", "Q4_K_M"), ("llama", "Q6_K"), ("qwen3", "hf-bf16"), ("gemma4_moe", "hf-bf16")]
)
def test_other_formats(tmp_path: Path, architecture: str, quant: str) -> None:
    with Engine(compiled(tmp_path, architecture, quant), SimDevice()) as engine:
        check_kernels(engine)


@pytest.mark.thorough
@pytest.mark.parametrize("order", [1, 2])
def test_check_mode(tmp_path: Path, order: int) -> None:
    """No race, no bad address, no misalignment."""
    artifact = compiled(tmp_path, "llama", "Q4_K_M", check=True)
    with Engine(artifact, SimDevice(threads=1, order=order, seed=7)) as engine:
        assert all(answers(engine, [0, 1]).values())
