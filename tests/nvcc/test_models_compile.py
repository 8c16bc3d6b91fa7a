"""Emitted sources, a decode step as a graph, compile for both GPUs without warnings, spills or stack."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from imp_codegen.build import Unit, build
from imp_codegen.checkpoint import open_checkpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.targets import find_target
from model_checks import FIXTURES

ROOT = Path(__file__).parents[2]
TARGETS = ("sm_90a", "sm_120a")
SOURCES = {
    "demo": ROOT / "models" / "demo.gguf",
    "llama Q6_K": FIXTURES / "llama" / "llama-Q6_K.gguf",
    "qwen3-8b Q8_0": (ROOT / "models" / "shapes" / "qwen3-8b.json", "Q8_0"),
    "qwen3-8b Q4_K_M": (ROOT / "models" / "shapes" / "qwen3-8b.json", "Q4_K_M"),
    "llama-3.2-1b BF16": (ROOT / "models" / "shapes" / "llama-3.2-1b.json", "BF16"),
    "llama-3.2-1b F16": (ROOT / "models" / "shapes" / "llama-3.2-1b.json", "F16"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_compiles_without_spills(name):
    source = SOURCES[name]
    checkpoint = random_checkpoint(*source) if isinstance(source, tuple) else open_checkpoint(source)
    with closing(checkpoint):
        compiled = plan_model(
            checkpoint, tuple(find_target(target) for target in TARGETS), CompileOptions(form="graph")
        )
    units = tuple(Unit(target, "nvcc", compiled.emitted[target].source) for target in TARGETS)
    for target, built in zip(TARGETS, build(units), strict=True):
        assert built.code[:4] == b"\x7fELF"
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", built.log)
        entries = {k.entry for program in compiled.emitted[target].programs for k in program.kernels}
        assert len(frames) == len(entries), "ptxas reports on every kernel"
        assert set(frames) == {("0", "0", "0")}, built.log


def test_a_source_that_does_not_compile_is_an_error():
    from imp_codegen.build import BuildError

    with pytest.raises(BuildError, match="does not compile"):
        build((Unit("sm_90a", "nvcc", "this is no source"),))
