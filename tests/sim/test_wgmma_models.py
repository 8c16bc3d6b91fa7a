"""Models whose prompts go through products of warpgroups, as on sm_90a."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from imp_codegen import compiler
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sim import SimDevice
from model_checks import check_against_truth, check_kernels, compile_fixture

TARGET = replace(find_target("sim"), wgmma=True, max_shared=227 << 10)


def compiled(folder: Path, architecture: str, quant: str, *, check: bool = False) -> Artifact:
    """A fixture for that target."""
    with patch.object(compiler, "find_targets", lambda _: (TARGET,)):
        artifact = Artifact.open(compile_fixture(folder, architecture, quant, "sim", check=check))
    kernels = artifact.plan.target("sim").program("forward_r128").kernels
    assert any(kernel.tiles and kernel.tiles.kind.startswith("half") for kernel in kernels)
    return artifact


@pytest.mark.parametrize(
    ("architecture", "quant"),
    [("llama", "Q8_0"), ("llama", "Q6_K"), ("qwen3", "Q4_K_M"), ("gemma3", "Q4_K_M"), ("qwen3", "hf-bf16")],
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
