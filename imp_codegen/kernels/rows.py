"""A kernel of one row for each row of a step, in one launch (stage/each_row.h)."""

from __future__ import annotations

from dataclasses import replace

from imp_codegen.graph import Value
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering


def for_rows(low: Lowering, kernel: KernelSpec, x: Value, y: Value) -> KernelSpec:
    """The kernel of the first row, for as many as `low` has; `x` is what each reads and `y` what it makes.

    Each row reads the weights for itself; its CTAs are its share of those of one row.
    """
    if not low.several:
        return kernel
    strides = Config("RowStrides", (("x", low.places[x].stride), ("y", low.places[y].stride)))
    ctas, _, _ = kernel.grid
    return replace(
        kernel,
        headers=(*kernel.headers, "stage/each_row"),
        stage=Cpp("EachRow", (strides, kernel.stage)),
        args={"one": kernel.args, "step": low.step()},
        grid=(ctas, -(-low.rows // ctas), 1),
        weight_bytes=kernel.weight_bytes * low.rows,
        other_bytes=kernel.other_bytes * low.rows,
        flops=kernel.flops * low.rows,
    )
