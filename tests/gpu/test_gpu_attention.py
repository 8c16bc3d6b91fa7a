"""Windows, soft caps, large heads and rotations of part of a head on the GPU: against numpy, and both forms alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import TargetError, find_target
from imp_runtime.device import open_device
from imp_runtime.engine import Engine
from mixed_attention import MIXED
from model_checks import check_kernels, quiet
from two_forms import BothForms, compile_config, write_config


@pytest.mark.parametrize("name", MIXED)
def test_kernels_agree_with_numpy(tmp_path: Path, target: str, name: str) -> None:
    case, artifact = MIXED[name], tmp_path / "model.impc"
    with case.built():
        options = CompileOptions(random_weights=True, quant="F16", form="graph")
        compile_model(write_config(tmp_path, case.config), artifact, (target,), options, quiet)
    with Engine.load(artifact, target=target) as engine:
        check_kernels(engine)


@pytest.mark.parametrize("name", MIXED)
def test_the_step_kernel_equals_the_graph(tmp_path: Path, target: str, name: str) -> None:
    case = MIXED[name]
    if target == "sm_120a" and case.config.get("head_dim") == 256:
        with case.built(), pytest.raises(TargetError, match=r"tiles of [0-9,]+ fit beside them"):
            compile_config(tmp_path, find_target(target), case.config)
        return
    with case.built():
        artifact = compile_config(tmp_path, find_target(target), case.config)
    tokens = np.random.default_rng(0).integers(0, 300, 300).tolist()
    with BothForms(artifact, open_device(target)) as forms:
        forms.compare(tokens)
