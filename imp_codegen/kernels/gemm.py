"""Matrix products of several rows: activations are encoded once, then multiplied on the tensor cores.

Where warpgroups multiply (`Target.wgmma`), the matrices of one vector are one launch of halfs (gemm_wgmma.py);
elsewhere, and for F32 weights, each is a launch of warps (gemm_mma.py).
"""

from __future__ import annotations

from imp_codegen.graph import Value
from imp_codegen.kernels import gemm_mma, gemm_wgmma
from imp_codegen.kernels.encode import encode
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Add, Linear


def products(
    low: Lowering,
    vector: Vector,
    linears: tuple[Linear, ...],
    *,
    add: Add | None = None,
    out: Value | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
) -> tuple[KernelSpec, ...]:
    """Every matrix times the vector of every row; with `add` added to what lies where the one result goes.

    `out`: the one result of what `scale` and a soft `cap` (0: none) stand for.
    """
    weights = tuple(op.weight for op in linears)
    if gemm_wgmma.takes(low, weights):
        encoded = encode(low, vector, panels=True)
        return (encoded, gemm_wgmma.gemm(low, linears, add, out=out, scale=scale, cap=cap))
    encoded = encode(low, vector, q8=low.wants_q8(*weights), dense=low.wants_dense(*weights))
    return (encoded, *(gemm_mma.gemm(low, op, add, out=out, scale=scale, cap=cap) for op in linears))
