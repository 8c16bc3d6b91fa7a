"""Of the ways to multiply a few rows, the one that takes least by the cost model; other cards take others."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.compiler import CompileOptions, plan_model
from imp_codegen.kernels.choice import Way, cheapest, each_row
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering, Place
from imp_codegen.kernels.state import CachePlan
from imp_codegen.targets import find_target
from imp_runtime.plan import Program

ROOT = Path(__file__).resolve().parents[2]
BIG = ROOT / "models" / "shapes" / "qwen3-8b.json"


def chunk(target: str, rows: int) -> tuple[Program, set[str]]:
    """An 8B's program for so many rows, and the buffers of the plan."""
    with closing(random_checkpoint(BIG, "Q8_0")) as checkpoint:
        chosen = replace(find_target(target), chunks=(rows,))
        (plan,) = plan_model(checkpoint, (chosen,), CompileOptions(form="graph")).plan.targets
    (found,) = (program for program in plan.programs if program.name == f"forward_r{rows}")
    return found, {buffer.name for buffer in plan.buffers}


@pytest.mark.parametrize(
    ("target", "rows", "each", "together"),
    [
        # Two rows of gate and up: 107 MB twice in 49 us, or tiles of 192 rows, which took 42 (docs/benchmarks.md).
        ("sm_90a", 2, {"v", "attn_residual", "residual"}, {"gated.products"}),
        ("sm_90a", 32, set(), {"q_k_v", "attn_output"}),
        ("sm_120a", 2, {"v", "attn_residual"}, {"gate_up", "down"}),
        ("sm_120a", 32, set(), {"q_k_v", "attn_output"}),
        ("sim", 2, set(), {"q_k_v", "attn_output"}),
    ],
)
def test_the_card_decides(target: str, rows: int, each: set[str], together: set[str]) -> None:
    program, _ = chunk(target, rows)
    names = {kernel.name for kernel in program.kernels}
    assert len(names) == len(program.kernels)
    assert {f"layers.0.{name}.{i}" for name in each for i in range(rows)} <= names
    assert {f"layers.0.{name}" for name in together} <= names
    assert not {f"layers.0.{name}" for name in each} & names


def test_each_row_reads_and_writes_its_own() -> None:
    program, _ = chunk("sm_90a", 2)
    kernels = {kernel.name: kernel for kernel in program.kernels}
    first, second = (kernels[f"layers.0.attn_residual.{i}"] for i in range(2))
    assert (first.entry, first.grid, first.weight_bytes) == (second.entry, second.grid, second.weight_bytes)
    width = 4096 * 4
    moved = [b.offset - a.offset for a, b in zip(first.args, second.args, strict=True)]
    assert sorted(moved) == [0, width, width], "the attended values and the residual stream; not the weights"
    assert [output.shape for output in second.outputs] == [(2, 4096)]
    assert first.outputs == ()


def kernel(name: str, nbytes: int) -> KernelSpec:
    return KernelSpec(name, "k", (), Cpp("K"), (), (1, 1, 1), 32, 0, (), weight_bytes=nbytes)


def lowering(target: str) -> Lowering:
    return Lowering(find_target(target), {}, CachePlan((), (), 0), (), 16, rows=2)


def test_what_is_not_taken_leaves_no_buffers() -> None:
    def asks(name: str, nbytes: int) -> Way:
        def lower(low: Lowering) -> tuple[KernelSpec, ...]:
            low.buffer(name, 1)
            return (kernel(name, nbytes),)

        return lower

    ways = (asks("slow", 10**9), asks("fast", 10**6), asks("middle", 10**8))
    low = lowering("sm_90a")
    assert [k.name for k in cheapest(low, ways)] == ["fast"]
    assert set(low.buffers) == {"fast"}
    low = lowering("sim")
    assert [k.name for k in cheapest(low, ways)] == ["slow"], "times mean nothing: the first"
    assert set(low.buffers) == {"slow"}


def test_rows_lie_a_stride_apart() -> None:
    low = replace(lowering("sm_90a"), places={"v": Place("x", 3, 10)})  # type: ignore[dict-item]  # any key
    columns = []

    def way(row: Lowering) -> KernelSpec:
        columns.append((row.rows, row.places["v"].column))  # type: ignore[index]
        return kernel("k", 1)

    assert [k.name for k in each_row("y", way)(low)] == ["y.0", "y.1"]
    assert columns[:2] == [(1, 3), (1, 13)]
