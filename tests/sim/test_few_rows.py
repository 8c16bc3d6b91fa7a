"""A chunk whose weights are streamed for each row by itself, as the cost model has it where launches cost nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from imp_codegen import compiler
from imp_codegen.cards import fast_cards
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.engine import Engine
from model_checks import check_kernels, quiet
from two_forms import write_config

SIM = find_target("sim")
ROWS = 32


@pytest.mark.parametrize("quant", ["Q8_0", "F32"])
def test_every_kernel_against_numpy(tmp_path: Path, quant: str) -> None:
    speed = fast_cards()["h200"].speed
    assert speed is not None
    target = replace(SIM, card=replace(SIM.card, speed=replace(speed, launch_us=0.0)), chunks=(ROWS,))
    artifact = tmp_path / "m.impc"
    options = CompileOptions(random_weights=True, quant=quant, form="graph")
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        compile_model(write_config(tmp_path, {}), artifact, ("sim",), options, quiet)
    with Engine.load(artifact, target="sim") as engine:
        (program,) = (p for p in engine.runner.target.programs if p.name == f"forward_r{ROWS}")
        names = {kernel.name for kernel in program.kernels}
        assert {f"layers.0.v.{ROWS - 1}", "layers.1.up.0", "layers.1.down"} <= names, sorted(names)
        check_kernels(engine)
