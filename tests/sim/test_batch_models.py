"""Steps of several sequences through programs of their own, as on GPUs; nobody's answer depends on the others."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.kernels import batch_product
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sequence import Sequence
from imp_runtime.sim import SimDevice
from model_checks import check_kernels, compile_fixture, quiet

BATCHES = (8, 16)
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 301,
    "max_position_embeddings": 400,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
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


def kept(folder: Path, quant: str, *, check: bool = False) -> Artifact:
    """A model whose steps of several sequences multiply as on sm_90a: few with activations in registers."""
    target = replace(find_target("sim"), max_shared=227 << 10, batches=(8, 32), wgmma=True)
    config = folder / "config.json"
    config.write_text(json.dumps(SHAPE), "utf-8")
    options = CompileOptions(random_weights=True, quant=quant, check=check)
    with (
        patch.object(compiler, "find_targets", lambda _: (target,)),
        patch.object(batch_product, "_LEAST_WARPS", 1),  # as for a model that is not so small
    ):
        compile_model(config, folder / "model.impc", ("sim",), options, quiet)
    artifact = Artifact.open(folder / "model.impc")
    for rows, kind in ((8, "held"), (32, "wgmma")):
        kernels = artifact.plan.target("sim").program(f"batch_r{rows}").kernels
        assert sum(kernel.tiles is not None and kind in kernel.tiles.kind for kernel in kernels) == 5
    return artifact


def test_nobody_depends_on_others_where_activations_are_kept(tmp_path: Path) -> None:
    with Engine(kept(tmp_path, "Q8_0"), SimDevice(), prefix_cache=False) as engine:
        all_of = answers(engine, list(range(max(COUNTS))))  # in a program of 32
        for i, found in answers(engine, [7, 2]).items():
            assert found == all_of[i]
        check_kernels(engine)


@pytest.mark.thorough
@pytest.mark.parametrize("order", [1, 2])
def test_kept_activations_in_check_mode(tmp_path: Path, order: int) -> None:
    """No race, no bad address, no misalignment."""
    with Engine(kept(tmp_path, "Q4_K_M", check=True), SimDevice(threads=1, order=order, seed=7)) as engine:
        assert all(answers(engine, [0, 1]).values())
        assert all(answers(engine, list(range(9))).values())


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
