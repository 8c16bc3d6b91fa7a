"""`imp inspect` tells of every matrix which kernels run it, against the names of the operations that they are for."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
from bench_table import SHAPES

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.targets import find_target
from imp_server.commands.inspect_weights import Launch, kinds_of, programs_of

# What operations that multiply with a weight are called.
OPS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "attn_output", "ffn_gate": "gate", "ffn_up": "up",
       "ffn_down": "down"}  # fmt: skip


@pytest.fixture(scope="module", params=["graph", "persistent"])
def mixed(request: pytest.FixtureRequest) -> Compiled:
    with closing(random_checkpoint(SHAPES / "qwen3-0.6b.json", "Q4_K_M")) as checkpoint:
        return plan_model(checkpoint, (find_target("sm_90a"),), CompileOptions(form=request.param))


def test_every_matrix_stands_once(mixed: Compiled) -> None:
    kinds = kinds_of(mixed.plan, {})
    matrices = [plane for plane in mixed.plan.planes if plane.rows > 1]
    assert sum(kind.count for kind in kinds) == len(matrices)
    assert sum(kind.nbytes for kind in kinds) == sum(plane.nbytes for plane in matrices)
    found = {(kind.name, kind.format): kind.count for kind in kinds}
    # llama-quantize's mixture: half of the layers have more bits in v and in the down projection.
    assert found["blk.*.attn_v.weight", "Q6_K"] == found["blk.*.attn_v.weight", "Q4_K"] == 14
    assert found["blk.*.ffn_gate.weight", "Q4_K"] == 28


def test_its_kernels_are_those_of_its_operations(mixed: Compiled) -> None:
    (target,) = mixed.plan.targets
    programs = programs_of(target)
    assert list(programs) == ["a step", "steps together", "a prompt"]
    assert programs["a prompt"].rows > programs["steps together"].rows > programs["a step"].rows == 1
    launches = {of: [Launch(kernel, 2.0) for kernel in program.kernels] for of, program in programs.items()}
    for kind in kinds_of(mixed.plan, launches):
        for of, program in programs.items():
            use = kind.uses[of]
            if part := re.fullmatch(r"blk\.\*\.(\w+)\.weight", kind.name):
                layers = {
                    plane.name.split(".")[1]
                    for plane in mixed.plan.planes
                    if (plane.format, plane.layout) == (kind.format, kind.layout)
                    and re.fullmatch(rf"blk\.\d+\.{part[1]}\.weight", plane.name)
                }
                ops = {f"Linear layers.{layer}.{OPS[part[1]]}" for layer in layers}
                running = [kernel for kernel in program.kernels if ops & set(kernel.ops)]
                assert set(use.entries) == {kernel.entry for kernel in running}
                assert use.us == 2.0 * len(running)
