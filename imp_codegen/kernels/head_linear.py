"""Matrices of every head's own, for any rows: the heads' rows are shared among all warps."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import HeadLinear
from imp_runtime.plan import Binding, Output

_WARPS = 8
_CTAS = 4  # of a multiprocessor


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadProducts(Match):
    """The heads' results side by side."""

    op: HeadLinear

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One kernel."""
        op = self.op
        place = low.places[op.out]
        to = Binding(place.buffer, place.column * 4)
        return (head_product(low, op, to, place.stride, op.weight.rows // op.heads, low.output(op.out)),)


def head_product(
    low: Lowering, op: HeadLinear, out: Binding, stride: int, head: int, outputs: tuple[Output, ...] = ()
) -> KernelSpec:
    """The kernel, whose result of each head lies `head` floats behind that of the one before, a token's `stride`."""
    weight, rows = op.weight, low.rows
    grid = min(-(-weight.rows // _WARPS), _CTAS * low.target.sms)
    fields = (
        ("heads", op.heads),
        ("warps", _WARPS),
        ("grid", grid),
        ("x_stride", low.places[op.x].stride),
        ("out_stride", stride),
        ("out_head", head),
    )
    return KernelSpec(
        name=op.out.name,
        entry="heads",
        headers=("stage/head_product", *low.headers(weight)),
        stage=Cpp("HeadProduct", (Config("HeadProductConfig", fields), low.matrix(weight))),
        args={
            "plane": low.plane(weight),
            "x": low.value("const float*", op.x),
            "step": low.step() if rows > 1 else None,
            "out": Param("float*", out),
        },
        grid=(grid, 1, 1),
        threads=_WARPS * 32,
        shared_bytes=0,
        overlap=True,
        ops=(label(op),),
        outputs=outputs,
        weight_bytes=low.weight_bytes(weight),
        other_bytes=rows * (op.x.width + op.out.width) * 4,
        flops=2 * rows * weight.rows * weight.cols,
    )


def match(edges: Edges, op: Op, rows: int) -> HeadProducts | None:
    """Any such matrices."""
    if not isinstance(op, HeadLinear):
        return None
    return HeadProducts(ops=(op,), reads=((op.x,),), writes=((op.out,),), op=op)
