"""Latent attention with random weights on the simulator: every kernel against its twin, and faults of each found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from test_verify import Rows, checked, quarter, slightly

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from latent_models import LITE, V3
from model_checks import check_kernels, quiet
from two_forms import CONFIG


def compiled(folder: Path, config: dict[str, Any], quant: str, check: bool = False) -> Path:
    """An artifact with steps of several sequences, which the simulator's programs otherwise have not."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    target = replace(find_target("sim"), batches=(8,))
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        options = CompileOptions(random_weights=True, quant=quant, check=check)
        compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    return folder / "model.impc"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.load(compiled(tmp_path_factory.mktemp("v3"), V3, "Q8_0"), target="sim") as engine:
        yield engine


def test_every_kernel_is_its_twin(engine: Engine) -> None:
    assert "batch_r8" in {program.name for program in engine.runner.programs}
    check_kernels(engine)


def another_bit(rows: Rows) -> None:
    """Of the first position's first element, a half."""
    rows[0, 1] = int(rows[0, 1]) ^ 4


@pytest.mark.parametrize(
    ("program", "value", "fault"),
    [
        ("forward_r128", "q", slightly),
        ("step_r1", "k", quarter),
        ("forward_r128", "attention", slightly),
        ("step_r1", "attention", slightly),
        ("batch_r8", "attention", quarter),
        ("step_r1", "attention.cache", another_bit),
        ("batch_r8", "values", slightly),
    ],
)
def test_a_fault_is_found_where_it_is(
    engine: Engine, program: str, value: str, fault: Callable[[Rows], object]
) -> None:
    failure = checked(engine, program, f"layers.1.{value}", fault).first_failure
    assert failure is not None
    assert (failure.op, failure.program) == (f"layers.1.{value}", program)


def test_prompts_of_several_chunks_and_steps_agree(engine: Engine) -> None:
    prompt = list(np.random.default_rng(2).integers(0, 300, 150))
    tokens = [int(token) for token in prompt]
    logits = engine.logits(tokens)
    assert next(engine.generate(tokens, SamplingParams(max_tokens=1, ignore_eos=True))) == logits[-1].argmax()
    np.testing.assert_array_equal(engine.logits(tokens[:60]), logits[:60])


def test_the_cache_has_a_row_of_latent_and_what_turns(engine: Engine) -> None:
    """Float16, one a layer and position."""
    layers, width = V3["num_hidden_layers"], V3["kv_lora_rank"] + V3["qk_rope_head_dim"]
    assert engine.artifact.plan.block_bytes == layers * 16 * width * 2


@pytest.mark.thorough
@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
def test_every_kernel_of_heads_of_576_without_a_race(tmp_path: Path, quant: str) -> None:
    artifact = Artifact.open(compiled(tmp_path, LITE, quant, check=True))
    with Engine(artifact, SimDevice(threads=1, order=2, seed=5)) as engine:
        check_kernels(engine)
