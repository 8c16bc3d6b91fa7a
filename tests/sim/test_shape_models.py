"""Rows that no cut of 256 divides, as published models have them: kernels against their numpy twins, and both forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from imp_codegen import compiler
from imp_codegen.compiler import CompileOptions, compile_model
from imp_codegen.targets import Target, find_target
from imp_runtime.engine import Engine
from imp_runtime.sampling import SamplingParams
from imp_runtime.sim import SimDevice
from model_checks import check_kernels, quiet
from two_forms import BothForms, compile_config, write_config

SIM = find_target("sim")
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
# changes of the config, format
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "11008 = 43 superblocks": ({"hidden_size": 256, "intermediate_size": 11008}, "Q4_K_M"),
    "18944, and 3 blocks": ({"hidden_size": 96, "intermediate_size": 18944, "attention_bias": True}, "Q8_0"),
    "29568, and 5 tensor-core products": ({"hidden_size": 80, "intermediate_size": 29568, "head_dim": 16}, "BF16"),
    "a prime number of blocks": ({"hidden_size": 32, "intermediate_size": 32 * 257}, "Q8_0"),
}


def check(folder: Path, changes: dict[str, Any], quant: str, target: Target) -> str:
    """Prefill, decode and every kernel by itself; the emitted source."""
    source = write_config(folder, {**LLAMA, **changes})
    artifact = folder / "model.impc"
    with patch.object(compiler, "find_targets", lambda _: (target,)):
        compile_model(source, artifact, ("sim",), CompileOptions(random_weights=True, quant=quant), quiet)
    with Engine.load(artifact, target="sim") as engine:
        prompt = list(range(30))
        last = engine.logits(prompt)[-1]
        assert next(engine.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True))) == last.argmax()
        check_kernels(engine)
        return engine.artifact.read("source/sim.cu").decode()


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_agree_with_numpy(tmp_path: Path, name: str) -> None:
    check(tmp_path, *SHAPES[name], SIM)


def test_a_vector_that_leaves_no_room_for_tiles_is_read_in_place(tmp_path: Path) -> None:
    changes = {"hidden_size": 64, "intermediate_size": 5632}
    source = check(tmp_path, changes, "F16", replace(SIM, max_shared=27 << 10, gemv_shared=25 << 10))
    encode = "imp::EncodeConfig{.cols = 5632, .warps = 4, .q8 = false, .halfs = false, .dense = "
    assert f"{encode}false" in source
    assert f"{encode}true" not in source


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "quant"),
    [
        ({"hidden_size": 256, "intermediate_size": 11008, "num_hidden_layers": 2}, "Q4_K_M"),
        ({"hidden_size": 96, "intermediate_size": 18944}, "Q8_0"),
        ({"hidden_size": 80, "intermediate_size": 9728, "head_dim": 16}, "BF16"),
    ],
    ids=["a long tile", "odd multiples of the block", "floats"],
)
def test_the_step_kernel_equals_the_graph(tmp_path: Path, changes: dict[str, Any], quant: str) -> None:
    target = replace(SIM.sized(3), attention_per_sm=1, max_shared=200 << 10)
    artifact = compile_config(tmp_path, target, {**LLAMA, **changes}, quant)
    with BothForms(artifact, SimDevice(threads=1)) as forms:
        forms.compare(list(range(40, 60)))
