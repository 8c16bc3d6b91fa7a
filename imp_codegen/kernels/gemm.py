"""Matrix products of several rows: activations are encoded once, then multiplied on the tensor cores.

In a step of several sequences the matrices of one vector are one launch that streams them (gemm_batch.py). For a chunk
those that halfs can hold are one launch, by warpgroups (gemm_wgmma.py) where the target has them, else by warps
(gemm_mma.py); others are a launch each (gemm_planes.py). Where a prompt's activations may have four bits, matrices of a
vector that all have four are one launch (gemm_fp4.py).
"""

from __future__ import annotations

from itertools import groupby

from imp_codegen.graph import Value, Weight
from imp_codegen.kernels import (
    batch_product,
    gemm_batch,
    gemm_batch_wgmma,
    gemm_fp4,
    gemm_held,
    gemm_mma,
    gemm_planes,
    gemm_wgmma,
)
from imp_codegen.kernels.encode import PEAK, encode
from imp_codegen.kernels.gemm_panels import takes
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Add, Linear


def fits(low: Lowering, weights: tuple[Weight, ...]) -> bool:
    """Whether there are products of the matrices for the rows of `low`; those of planes come in tiles of 32 rows."""
    return gemm_batch.takes(low, weights) or all(takes(low, w) for w in weights) or low.rows % 32 == 0


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
        order = batch_product.order(low, weights) if low.target.wgmma else None
        panels = order is not None and low.rows > gemm_held.MOST_ROWS
        encoded = encode(low, vector, peak=PEAK, fragments=not panels)
        if order is None:
            return (encoded, gemm_batch.gemm(low, linears, add, out=out, scale=scale, cap=cap))
        kept = gemm_batch_wgmma if panels else gemm_held
        return (encoded, kept.gemm(low, order, linears, add, out=out, scale=scale, cap=cap))
    if gemm_fp4.takes(low, weights):
        encoded = encode(low, vector, fp4=True)
        return (encoded, gemm_fp4.gemm(low, linears, add, out=out, scale=scale, cap=cap))
    by = gemm_wgmma if low.target.wgmma else gemm_mma
    halfs = tuple(w for w in weights if takes(low, w))
    found = [encode(low, vector, dense=len(halfs) < len(weights), peak=by.peak(low, halfs) if halfs else None)]
    for fit, run in groupby(linears, lambda op: takes(low, op.weight)):  # neighbours in the result are one launch
        if fit:
            found.append(by.gemm(low, tuple(run), add, out=out, scale=scale, cap=cap))
        else:
            found += [gemm_planes.gemm(low, op, add, out=out, scale=scale, cap=cap) for op in run]
    return tuple(found)
