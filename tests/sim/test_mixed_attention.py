"""Layers with windows, soft caps and rotations of their own: kernels against their numpy twins, and both forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import find_target
from imp_runtime.engine import Engine
from imp_runtime.sim import SimDevice
from mixed_attention import MIXED
from model_checks import check_kernels, quiet
from two_forms import BothForms, compile_config, write_config


@pytest.mark.parametrize("name", MIXED)
def test_kernels_agree_with_numpy(tmp_path: Path, name: str) -> None:
    case, artifact = MIXED[name], tmp_path / "model.impc"
    with case.built():
        options = CompileOptions(random_weights=True, quant="F16")
        compile_model(write_config(tmp_path, case.config), artifact, ("sim",), options, quiet)
    with Engine.load(artifact, target="sim") as engine:
        check_kernels(engine)


@pytest.mark.parametrize("name", MIXED)
def test_the_step_kernel_equals_the_graph(tmp_path: Path, name: str) -> None:
    case = MIXED[name]
    target = replace(find_target("sim").sized(5), attention_per_sm=1, step_warps=2, max_shared=128 << 10)
    with case.built():
        artifact = compile_config(tmp_path, target, {**case.config, "hidden_size": 64, "intermediate_size": 96})
    tokens = np.random.default_rng(0).integers(0, 300, 70).tolist()
    with BothForms(artifact, SimDevice(threads=1)) as forms:
        forms.compare(tokens)
