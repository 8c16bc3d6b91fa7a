"""The end of a chunk of a prompt."""

from __future__ import annotations

from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def finish(low: Lowering, vocab: int) -> KernelSpec:
    """The position moves on, and the prompt's tokens are marked as seen."""
    return KernelSpec(
        name="finish",
        entry="finish",
        headers=("stage/finish_prefill",),
        stage=Cpp("FinishPrefill", (Config("FinishConfig", (("vocab", vocab),)),)),
        call=(
            low.state("const std::int32_t*", "step.tokens"),
            low.state("std::uint32_t*", "seq.seen"),
            low.state("std::int32_t*", "seq.position"),
            low.state("const std::int32_t*", "step.input"),
        ),
        grid=(1, 1, 1),
        threads=256,
        shared_bytes=0,
        ops=(),
        other_bytes=low.rows * 8,
    )
