"""The hidden state of a chunk's last token, for a token to come of it."""

from __future__ import annotations

from imp_codegen.graph import Value
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def take_last(chunk: Lowering, one: Lowering, value: Value) -> KernelSpec:
    """`value` of the chunk's last token to where one row's lies."""
    width = value.width
    return KernelSpec(
        name=f"last_token.{value.name}",
        entry="take_last",
        headers=("stage/take_last",),
        stage=Cpp("TakeLast", (Config("TakeLastConfig", (("cols", width), ("threads", 128))),)),
        args={
            "input": one.state("const std::int32_t*", "step.input"),
            "chunk": chunk.value("const float*", value),
            "x": one.value("float*", value),
        },
        grid=(1, 1, 1),
        threads=128,
        shared_bytes=0,
        ops=(),
        other_bytes=width * 8,
    )
