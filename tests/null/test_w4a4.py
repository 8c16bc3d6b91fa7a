"""`--prefill w4a4`: what takes it, what is said of the rest, what is refused, and how activations are rounded."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from bench_table import SHAPES

from e4m3 import e4m3
from imp_codegen.cards import fast_cards
from imp_codegen.checkpoint import open_checkpoint, random
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import Compiled, CompileOptions, plan_model
from imp_codegen.predict import predict_us
from imp_codegen.reference import round_fp4
from imp_codegen.targets import find_target, find_targets
from imp_runtime.errors import ImpError
from imp_runtime.plan import Plan, Prefill, Program
from imp_server.cli import execute
from model_checks import source_of

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def planned(prefill: Prefill, quant: str = "NVFP4", formats: dict[str, str] | None = None) -> Compiled:
    """A shape for an RTX 5090, some matrices in other formats."""
    usual = random.format_in_mixture

    def chosen(name: str, quant: str, shapes: Any) -> str:
        return (formats or {}).get(name.split(".")[-2], usual(name, quant, shapes))

    with (
        patch.object(random, "format_in_mixture", chosen),
        closing(random_checkpoint(SHAPES / "qwen3-0.6b.json", quant)) as checkpoint,
    ):
        target = replace(find_target("sm_120a"), chunks=(128, 512), batches=(8,))
        return plan_model(checkpoint, (target,), CompileOptions(prefill=prefill))


def programs_of(plan: Plan) -> dict[str, Program]:
    return {program.name: program for program in plan.targets[0].programs}


def outline(program: Program) -> list[tuple[object, ...]]:
    """All but how entries are numbered."""
    return [(kernel.name, kernel.ops, kernel.grid, kernel.tiles, kernel.other_bytes) for kernel in program.kernels]


@pytest.fixture(scope="module")
def both() -> tuple[Compiled, Compiled]:
    return planned("f16"), planned("w4a4")


def test_prompts_go_by_fp4_tensor_cores_and_nothing_else_does(both: tuple[Compiled, Compiled]) -> None:
    exact, rounded = (programs_of(compiled.plan) for compiled in both)
    assert list(exact) == list(rounded)
    for name, program in rounded.items():
        kinds = {kernel.tiles.mma for kernel in program.kernels if kernel.tiles is not None}
        assert ("nvfp4" in kinds) == (name.startswith("forward_r") and program.rows > 1), name
        if "nvfp4" not in kinds:
            assert outline(program) == outline(exact[name])
    products = [kernel for kernel in rounded["forward_r512"].kernels if kernel.tiles and kernel.tiles.mma == "nvfp4"]
    assert all(kernel.entry.startswith("gemm_fp4") for kernel in products)  # as imp inspect and imp bench show it
    assert len(products) == 28 * 4  # q, k, v together; the output's; gate and up together; down
    assert both[1].notes == both[0].notes  # nothing is left out
    assert rounded["forward_r512"].first_us < exact["forward_r512"].first_us
    # imp inspect --gpu h200 predicts it for a card that has none
    fast, slow = (predict_us(fast_cards()[card], products) for card in ("rtx-5090", "h200"))
    assert fast < slow


def test_it_is_named(both: tuple[Compiled, Compiled]) -> None:
    assert [compiled.plan.prefill for compiled in both] == ["f16", "w4a4"]
    assert [compiled.plan.weights for compiled in both] == ["NVFP4", "NVFP4, prompts W4A4"]


def test_what_is_left_out_is_told() -> None:
    compiled = planned("w4a4", formats={"attn_v": "Q8_0", "ffn_down": "BF16"})
    (note,) = (note for note in compiled.notes if note.startswith("prompts in W4A4"))
    assert note.startswith("prompts in W4A4: 84 matrices; 112 are multiplied in f16")
    kinds = ["attn_k.weight (NVFP4)", "attn_q.weight (NVFP4)", "attn_v.weight (Q8_0)", "ffn_down.weight (BF16)"]
    for kind in kinds:
        assert f"28 blk.*.{kind}" in note


@pytest.mark.parametrize("targets", [["sm_90a"], ["sm_120a", "sm_90a"]])
def test_other_targets_are_refused(targets: list[str]) -> None:
    with (
        closing(open_checkpoint(source_of("qwen3", "nvfp4-ct"))) as checkpoint,
        pytest.raises(ImpError, match="sm_90a has no FP4 tensor cores; compile for sim or sm_120a, or leave it out"),
    ):
        plan_model(checkpoint, find_targets(targets), CompileOptions(prefill="w4a4"))


def test_other_formats_are_refused() -> None:
    with (
        closing(open_checkpoint(source_of("qwen3", "Q8_0"))) as checkpoint,
        pytest.raises(ImpError, match="is for matrices in NVFP4, and those of this model are Q8_0; leave it out, or"),
    ):
        plan_model(checkpoint, find_targets(["sim"]), CompileOptions(prefill="w4a4"))


def next_to(value: float, table: tuple[float, ...]) -> set[float]:
    """What is nearest in a table; two where both are, but for a rounding."""
    least = min(abs(each - value) for each in table)
    return {each for each in table if abs(each - value) <= least + 1e-5 * value}


def test_activations_are_rounded_as_the_formula_says() -> None:
    """One by one, in Python's floats."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((3, 64)) * 10.0 ** rng.uniform(-4, 1, (3, 4)).repeat(16, axis=1)).astype(np.float32)
    x[0, 16:32] = 0
    scales = tuple(e4m3(code) for code in range(127))
    rounded = round_fp4(x)
    for row, kept in zip(x, rounded, strict=True):
        peak = float(np.abs(row).max())
        for first in range(0, 64, 16):
            block = row[first : first + 16]
            (scale,) = next_to(448 * float(np.abs(block).max()) / peak, scales)
            for value, found in zip(block.tolist(), kept[first : first + 16].tolist(), strict=True):
                size = abs(value) / (scale * peak / 2688) if scale else 0
                wanted = [code * scale * peak / 2688 for code in next_to(min(size, 6), E2M1)]
                assert any(abs(abs(found) - each) <= 1e-6 * each for each in wanted)
                assert found == 0 or (found < 0) == (value < 0)
    assert not round_fp4(np.zeros((2, 32), np.float32)).any()


def test_another_word_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(source_of("qwen3", "Q8_0"))
    assert execute(["compile", source, "-o", str(tmp_path / "x.impc"), "--prefill", "fp4"]) == 2
    assert "--prefill 'fp4' is unknown; known: f16, w4a4" in capsys.readouterr().err
