"""What `imp verify` finds: every output of every kernel, wrong in ways that a large element beside it could hide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_codegen import compiler
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.verify import VerifyReport, verify
from imp_runtime.engine import Engine
from imp_runtime.model_runner import ModelRunner
from model_checks import SHORT, quiet
from two_forms import CONFIG

OUTLIER = 3000.0
BIAS = "blk.0.attn_output.bias"
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A model whose residual stream has an element of 3,000 from the first layer's attention on."""

    def with_outlier(source: Path, quant: str) -> Any:
        checkpoint = random_checkpoint(source, quant)
        bias = np.zeros(256, "<f4")
        bias[5] = OUTLIER
        checkpoint.fixed[BIAS] = bias
        return checkpoint

    folder = tmp_path_factory.mktemp("outlier")
    changes = {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "hidden_size": 256}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with patch.object(compiler, "random_checkpoint", with_outlier):
        options = CompileOptions(random_weights=True)
        compile_model(folder / "config.json", folder / "model.impc", ("sim",), options, quiet)
    with Engine.load(folder / "model.impc", target="sim") as engine:
        yield engine


class Faulty:
    """A runner one of whose outputs is not what the kernel made."""

    def __init__(self, runner: ModelRunner, program: str, value: str, fault: Callable[[Rows], object]) -> None:
        self.runner, self.program, self.value, self.fault = runner, program, value, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def trace(self, program: str) -> Iterator[tuple[Any, dict[str, NDArray[Any]]]]:
        for kernel, outputs in self.runner.trace(program):
            if program.startswith(self.program) and self.value in outputs:
                rows = outputs[self.value].reshape(-1, outputs[self.value].shape[-1]).copy()
                self.fault(rows)
                outputs[self.value] = rows.reshape(outputs[self.value].shape)
            yield kernel, outputs


def checked(engine: Engine, program: str = "", value: str = "", fault: Callable[[Rows], object] = id) -> VerifyReport:
    return verify(engine.artifact, Faulty(engine.runner, program, value, fault), quiet, SHORT)


def test_there_is_an_outlier_and_no_fault(engine: Engine) -> None:
    report = checked(engine)
    assert report.first_failure is None
    scales = {row.op: row.scale for row in report.rows}
    assert scales["layers.0.attn_residual"] > 0.9 * OUTLIER
    assert scales["layers.1.residual"] > 0.9 * OUTLIER


def quarter(rows: Rows) -> None:
    rows[:, -rows.shape[1] // 4 :] = 0


def row_of_another(rows: Rows) -> None:
    rows[0, 1:9] = rows[0, 17:25]


def slightly(rows: Rows) -> None:
    """A tenth of what is usual, in one of the ordinary elements."""
    rows[0, 9] += 0.1 * np.median(np.abs(rows[0]))


VALUES = {
    "step_r1": ["layers.1.q", "layers.1.k", "layers.1.v", "layers.1.gated"],
    "forward_r128": ["embed", "layers.1.q", "layers.1.k", "layers.1.v", "layers.1.gate", "layers.1.up"],
}
BOTH = ["layers.1.attention", "layers.1.attn_residual", "layers.1.residual"]
CASES = [(program, value) for program in VALUES for value in (*VALUES[program], *BOTH)]


@pytest.mark.parametrize("fault", [quarter, row_of_another, slightly])
@pytest.mark.parametrize(("program", "value"), [*CASES, ("step_r1", "logits")])
def test_a_fault_is_found_where_it_is(
    engine: Engine, program: str, value: str, fault: Callable[[Rows], object]
) -> None:
    failure = checked(engine, program, value, fault).first_failure
    assert failure is not None
    assert (failure.op, failure.program.startswith(program)) == (value, True)


def test_what_is_not_a_number_is_a_fault(engine: Engine) -> None:
    for wrong in (np.nan, np.inf):

        def put(rows: Rows, wrong: float = wrong) -> None:
            rows[0, 3] = wrong

        failure = checked(engine, "step_r1", "layers.1.q", put).first_failure
        assert failure is not None
        assert failure.op == "layers.1.q"
