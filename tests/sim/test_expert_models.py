"""Mixtures of experts with random weights on the simulator: every kernel against its twin, and faults of each found."""

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
from imp_codegen.checkpoint import random
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.artifact import Artifact
from imp_runtime.engine import Engine
from imp_runtime.paging import Paging
from imp_runtime.plan import SAMPLING_DTYPE
from imp_runtime.sim import SimDevice
from model_checks import check_kernels, quiet
from two_forms import CONFIG

# The middle one of three layers is dense; of its experts' matrices gate and up have other formats.
MIXTURE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 3,
    "num_experts": 37,
    "num_experts_per_tok": 5,
    "moe_intermediate_size": 96,
    "norm_topk_prob": False,
    "mlp_only_layers": [1],
}
FORMATS = {"ffn_gate_exps": "Q4_0", "ffn_up_exps": "BF16", "ffn_down_exps": "Q8_0"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **MIXTURE}), "utf-8")
    usual = random.format_in_mixture

    def chosen(name: str, quant: str, shapes: Any) -> str:
        return FORMATS.get(name.split(".")[-2], usual(name, quant, shapes))

    with patch.object(random, "format_in_mixture", chosen):
        options = CompileOptions(random_weights=True)
        compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    with Engine.load(folder / "model.impc", target="sim") as engine:
        yield engine


def test_every_kernel_is_its_twin(engine: Engine) -> None:
    check_kernels(engine)


# A dense network beside experts, with heads of two sizes and numbers; sizes that no tile of 64 divides.
BESIDE: dict[str, Any] = {
    "architectures": ["Gemma4ForCausalLM"],
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 21,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "num_global_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 48,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 96,
    "vocab_size": 301,
    "max_position_embeddings": 400,
    "final_logit_softcapping": 30.0,
}


@pytest.mark.thorough
@pytest.mark.parametrize("quant", ["Q8_0", "BF16"])
def test_a_dense_network_beside_experts_without_a_race(tmp_path: Path, quant: str) -> None:
    """In all forms: a step, steps of several sequences, prompts."""
    (tmp_path / "config.json").write_text(json.dumps(BESIDE), "utf-8")
    target = replace(find_target("sim"), max_shared=227 << 10, batches=(8, 16))
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        options = CompileOptions(random_weights=True, quant=quant, check=True)
        compile_model(tmp_path / "config.json", tmp_path / "model.impc", ("sim",), options, quiet)
    with Engine(Artifact.open(tmp_path / "model.impc"), SimDevice(threads=1, order=2, seed=5)) as engine:
        assert {"batch_r8", "batch_r16"} <= {program.name for program in engine.runner.programs}
        check_kernels(engine)


def another_expert(rows: Rows) -> None:
    rows[0, 1] += 1


def a_larger_share(rows: Rows) -> None:
    rows[0, -1] *= 1.01


FAULTS: list[tuple[str, str, Callable[[Rows], object]]] = [
    ("step_r1", "layers.2.router", slightly),
    ("step_r1", "layers.2.route", another_expert),
    ("step_r1", "layers.2.route", a_larger_share),
    ("forward_r128", "layers.2.gated", slightly),
    ("step_r1", "layers.2.gated", quarter),
    ("forward_r128", "layers.2.residual", slightly),
]


@pytest.mark.parametrize(("program", "value", "fault"), FAULTS)
def test_a_fault_is_found_where_it_is(
    engine: Engine, program: str, value: str, fault: Callable[[Rows], object]
) -> None:
    failure = checked(engine, program, value, fault).first_failure
    assert failure is not None
    assert (failure.op, failure.program) == (value, program)


def test_a_row_is_routed_alike_whatever_runs_beside_it(engine: Engine) -> None:
    """The first layer's experts see the same vectors in a prompt of any length."""
    runner, found = engine.runner, []
    table = Paging.of(engine.artifact.plan).table(48, range(1, 4))
    for count in (3, 40):
        seen: dict[str, Rows] = {}
        runner.write_slot(0, 0, table, np.zeros((), SAMPLING_DTYPE))
        runner.write_rows([(0, list(range(count)), False)])
        for _, outputs in runner.trace("forward_r128"):
            seen |= {name: rows[:3].copy() for name, rows in outputs.items() if name.startswith("layers.0.")}
        found.append(seen)
    for name in ("router", "route", "gated", "residual"):
        np.testing.assert_array_equal(*(seen[f"layers.0.{name}"] for seen in found))
