"""The hidden state of one of the rows that were run, for a token to come of it."""

from __future__ import annotations

from imp_codegen.graph import Value
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def take_row(many: Lowering, one: Lowering, value: Value) -> KernelSpec:
    """`value` of the row that the step names to where one row's lies."""
    width = value.width
    return KernelSpec(
        name=f"row.{value.name}",
        entry="take_row",
        headers=("stage/take_row",),
        stage=Cpp("TakeRow", (Config("TakeRowConfig", (("cols", width), ("threads", 128))),)),
        args={
            "step": one.step(),
            "rows": many.value("const float*", value),
            "x": one.value("float*", value),
        },
        grid=(1, 1, 1),
        threads=128,
        shared_bytes=0,
        ops=(),
        other_bytes=width * 8,
    )
