"""One row of the logits of all rows, as the LM head of one row would leave it."""

from __future__ import annotations

from imp_codegen.kernels.head import LOGITS, Head
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.sample import best_bytes
from imp_runtime.plan import Binding

_THREADS = 256


def pick(low: Lowering, head: Head) -> KernelSpec:
    """Logits of the row that the step names to where one row's lie, and the best of each CTA's stretch of them."""
    vocab, grid = head.logits.width, low.target.sms
    config = Config("PickConfig", (("vocab", vocab), ("grid", grid), ("threads", _THREADS)))
    stored = head.stored(low)
    return KernelSpec(
        name="pick",
        entry="pick",
        headers=("stage/pick_logits",),
        stage=Cpp("PickLogits", (config,)),
        args={
            "step": low.step(),
            "rows": Param("const float*", Binding(f"{LOGITS}.all")),
            "logits": stored["logits"],
            "best_value": stored["best_value"],
            "best": stored["best"],
        },
        grid=(grid, 1, 1),
        threads=_THREADS,
        shared_bytes=best_bytes(_THREADS),
        ops=(),
        other_bytes=vocab * 8,
    )
