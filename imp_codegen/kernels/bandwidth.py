"""A kernel that only reads: the yardstick of `imp bench`, which gives it memory of its own."""

from __future__ import annotations

from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering

_THREADS = 512
_CTAS_PER_SM = 8


def read_memory(low: Lowering) -> KernelSpec:
    """As planned it reads an empty range; the runtime launches it with other addresses."""
    grid = low.target.sms * _CTAS_PER_SM
    sink = low.buffer("bandwidth.sink", 4)
    return KernelSpec(
        name="read",
        entry="read",
        headers=("stage/read",),
        stage=Cpp("Read", (Config("ReadConfig", (("grid", grid), ("threads", _THREADS))),)),
        args={
            "begin": Param("const std::uint8_t*", sink),
            "end": Param("const std::uint8_t*", sink),
            "sink": Param("std::uint32_t*", sink),
        },
        grid=(grid, 1, 1),
        threads=_THREADS,
        shared_bytes=0,
        ops=(),
    )
