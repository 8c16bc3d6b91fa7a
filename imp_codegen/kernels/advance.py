"""The end of a program of several rows."""

from __future__ import annotations

from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def advance(low: Lowering) -> KernelSpec:
    """The positions of its sequences move on."""
    return KernelSpec(
        name="advance",
        entry="advance",
        headers=("stage/advance",),
        stage=Cpp("Advance", (32,)),
        args={
            "positions": low.state("std::int32_t*", "seq.position"),
            "step": low.step(),
            "sequences": low.step_sequences(),
        },
        grid=(1, 1, 1),
        threads=32,
        shared_bytes=0,
        ops=(),
        other_bytes=8,
    )
