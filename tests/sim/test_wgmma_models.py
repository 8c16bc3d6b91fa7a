"""Models whose prompts go through products of warpgroups, as on sm_90a."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from imp_codegen import compiler
from imp_codegen.targets import Target, find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine, StepOutput
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from model_checks import check_against_truth, check_kernels, compile_fixture

TARGET = replace(find_target("sim"), wgmma=True, max_shared=227 << 10)


def compiled(folder: Path, architecture: str, quant: str, *, check: bool = False, target: Target = TARGET) -> Artifact:
    """A fixture for that target."""
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        artifact = Artifact.open(compile_fixture(folder, architecture, quant, "sim", check=check))
    kernels = artifact.plan.target("sim").program(f"forward_r{target.chunks[0]}").kernels
    assert any(kernel.tiles and kernel.tiles.kind.startswith("half") for kernel in kernels)
    return artifact


@pytest.mark.parametrize(
    ("architecture", "quant"),
    [
        pytest.param("llama", "Q8_0", marks=pytest.mark.thorough),
        ("llama", "Q6_K"),
        ("qwen3", "Q4_K_M"),
        pytest.param("gemma3", "Q4_K_M", marks=pytest.mark.thorough),
        ("qwen3", "hf-bf16"),
    ],
)
def test_model(tmp_path: Path, architecture: str, quant: str) -> None:
    with Engine(compiled(tmp_path, architecture, quant), SimDevice()) as engine:
        check_against_truth(engine, architecture, quant)
        check_kernels(engine)


@pytest.mark.parametrize("order", [1, 2])
def test_model_in_check_mode(tmp_path: Path, order: int) -> None:
    """No race, no bad address, no misalignment."""
    artifact = compiled(tmp_path, "llama", "Q4_K_M", check=True)
    with Engine(artifact, SimDevice(threads=1, order=order, seed=7)) as engine:
        check_against_truth(engine, "llama", "Q4_K_M")


def test_no_bit_depends_on_the_chunk(tmp_path: Path) -> None:
    """Prompts of 100 and 50 tokens in pieces of 32 or 64 rows, or mostly in one of 128."""
    prompts = [np.random.default_rng(length).integers(0, 300, length).tolist() for length in (100, 50)]
    params = SamplingParams(max_tokens=3, ignore_eos=True, top_logprobs=4)
    found = []
    for chunks in ((32,), (32, 128), (64,)):
        folder = tmp_path / str(chunks[-1])
        folder.mkdir()
        target = replace(TARGET, chunks=chunks)
        with Engine(compiled(folder, "llama", "Q8_0", target=target), SimDevice()) as engine:
            with patch.object(engine.runner, "run", wraps=engine.runner.run) as run:
                asked = [engine.add(prompt, params) for prompt in prompts]
                came: list[StepOutput] = []
                while engine.has_work:
                    came += engine.step()
            ran = {call.args[0] for call in run.call_args_list}
            found.append([[(o.token, o.logprob, o.top) for o in came if o.sequence is s] for s in asked])
        assert {f"forward_r{rows}" for rows in chunks} <= ran
    assert found[0] == found[1] == found[2]
