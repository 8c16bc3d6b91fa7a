"""The hidden states after which tokens are chosen, at the front of all rows that were run."""

from __future__ import annotations

from imp_codegen.graph import Value
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering

_THREADS = 128


def gather_rows(low: Lowering, value: Value) -> KernelSpec:
    """`value` of the last row of each sequence that goes on to choose a token, one behind the other."""
    width, stride = value.width, low.places[value].stride
    config = Config("GatherConfig", (("cols", width), ("stride", stride), ("threads", _THREADS)))
    return KernelSpec(
        name=f"rows.{value.name}",
        entry="gather_rows",
        headers=("stage/gather_rows",),
        stage=Cpp("GatherRows", (config,)),
        args={
            "step": low.step(),
            "sequences": low.step_sequences(),
            "rows": low.value("float*", value),
        },
        grid=(-(-width // _THREADS), 1, 1),
        threads=_THREADS,
        shared_bytes=0,
        ops=(),
        other_bytes=low.rows * width * 8,
    )
