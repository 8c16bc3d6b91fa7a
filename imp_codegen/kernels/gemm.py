"""Matrix products of several rows: activations are encoded once, then multiplied on the tensor cores.

In a step of several sequences the matrices of one vector are one launch that streams them (gemm_batch.py). For a chunk
they are one launch of halfs where warpgroups multiply (`Target.wgmma`, gemm_wgmma.py). Elsewhere, and for F32 weights,
each is a launch of warps (gemm_mma.py).
"""

from __future__ import annotations

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels import gemm_batch, gemm_mma, gemm_wgmma
from imp_codegen.kernels.encode import encode
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Add, Linear


def fits(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether there are products of the matrices for the rows of `low`; those of warps come in tiles of 32 rows."""
    return gemm_batch.takes(low, weights) or gemm_wgmma.takes(low, weights) or low.rows % 32 == 0


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
    if gemm_batch.takes(low, weights):
        encoded = encode(low, vector, fragments=True)
        return (encoded, gemm_batch.gemm(low, linears, add, out=out, scale=scale, cap=cap))
    if gemm_wgmma.takes(low, weights):
        encoded = encode(low, vector, panels=True)
        return (encoded, gemm_wgmma.gemm(low, linears, add, out=out, scale=scale, cap=cap))
    encoded = encode(low, vector, q8=low.wants_q8(*weights), dense=low.wants_dense(*weights))
    return (encoded, *(gemm_mma.gemm(low, op, add, out=out, scale=scale, cap=cap) for op in linears))
