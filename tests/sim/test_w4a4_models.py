"""Models whose prompts have four bits on both sides, on the simulator: each kernel against its twin, and the cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_verify import checked, slightly

from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.graph import Floats, Weight
from imp_codegen.models import load_named
from imp_codegen.reference import Reference, artifact_weights, round_fp4
from imp_codegen.spec import ModelSpec
from imp_runtime.engine import Engine
from model_checks import FIXTURES, check_kernels, kl_divergence, quiet, source_of


class Rounding(Reference):
    """Activations of NVFP4 matrices have four bits."""

    def given(self, x: Floats, weight: Weight) -> Floats:
        return round_fp4(x) if self.weights.activation(weight) == "q8" else x


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("w4a4") / "model.impc"
    compile_model(source_of("qwen3", "nvfp4-ct"), path, ("sim",), CompileOptions(prefill="w4a4"), quiet)
    with Engine.load(path, target="sim") as engine:
        yield engine


def test_every_kernel_is_its_twin(engine: Engine) -> None:
    check_kernels(engine)


def test_a_fault_is_found_where_it_is(engine: Engine) -> None:
    for value in ("layers.1.q", "layers.1.up", "layers.1.residual"):
        failure = checked(engine, "forward_r128", value, slightly).first_failure
        assert failure is not None
        assert failure.op == value


def test_it_costs_what_the_same_rounding_costs_in_numpy(engine: Engine) -> None:
    """Most of what a model of random weights knows; what int8 codes cost is a 245th of it."""
    truth = np.load(FIXTURES / "qwen3" / "nvfp4-ct.npz")
    found = kl_divergence(truth["logits"], engine.logits(truth["prompt_ids"].tolist())).mean()
    spec = ModelSpec.from_json(engine.artifact.read("spec.json"))
    twin = Rounding(artifact_weights(engine.artifact), rounded=True)
    values = twin.run(load_named(spec.architecture).build(spec), truth["prompt_ids"].astype(np.int64))
    (logits,) = (value for value in values.values() if value.shape == truth["logits"].shape)
    alike = kl_divergence(truth["logits"], logits).mean()
    assert 0.75 * alike < found < 1.25 * alike
    assert found > 100 * truth["peer_kl"].mean()


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen2_moe"])
def test_mixtures(tmp_path: Path, architecture: str) -> None:
    """Rounded to NVFP4 first. The latter's down projections have rows that are no multiple of 64, and stay accurate."""
    options = CompileOptions(prefill="w4a4", weights="nvfp4", check=True)
    compile_model(FIXTURES / architecture / "hf", tmp_path / "model.impc", ("sim",), options, quiet)
    with Engine.load(tmp_path / "model.impc", target="sim") as engine:
        kernels = engine.runner.target.program("forward_r128").kernels
        assert any(kernel.tiles and kernel.tiles.mma == "nvfp4" for kernel in kernels)
        check_kernels(engine)
