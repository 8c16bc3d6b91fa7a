"""The end of a chunk of a prompt."""

from __future__ import annotations

from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def finish(low: Lowering) -> KernelSpec:
    """The position moves on."""
    return KernelSpec(
        name="finish",
        entry="finish",
        headers=("stage/finish_prefill",),
        stage=Cpp("FinishPrefill", (32,)),
        args={
            "positions": low.state("std::int32_t*", "seq.position"),
            "input": low.state("const std::int32_t*", "step.input"),
        },
        grid=(1, 1, 1),
        threads=32,
        shared_bytes=0,
        ops=(),
        other_bytes=8,
    )
