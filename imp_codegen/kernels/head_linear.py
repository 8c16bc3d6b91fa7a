"""Matrices of every head's own: a warp takes rows of them for all tokens; of prompts a CTA takes a tile of both."""

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
_TILE = 64  # rows of a head's matrix, and tokens of a prompt
_TILE_THREADS = 256
_TILE_BYTES = 2 * 32 * _TILE * 4


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
    strides = (("x_stride", low.places[op.x].stride), ("out_stride", stride), ("out_head", head))
    tiles = rows > 1 and not low.batch
    if tiles:
        config = Config("HeadRowsConfig", (("heads", op.heads), *strides))
        grid = (op.heads * -(-weight.rows // op.heads // _TILE), -(-rows // _TILE), 1)
    else:
        grid = (min(-(-weight.rows // _WARPS), _CTAS * low.target.sms), 1, 1)
        config = Config("HeadProductConfig", (("heads", op.heads), ("warps", _WARPS), ("grid", grid[0]), *strides))
    return KernelSpec(
        name=op.out.name,
        entry="heads",
        headers=("stage/head_rows" if tiles else "stage/head_product", *low.headers(weight)),
        stage=Cpp("HeadRows" if tiles else "HeadProduct", (config, low.matrix(weight))),
        args={
            "plane": low.plane(weight),
            "x": low.value("const float*", op.x),
            "step": low.step() if rows > 1 else None,
            "out": Param("float*", out),
        },
        grid=grid,
        threads=_TILE_THREADS if tiles else _WARPS * 32,
        shared_bytes=_TILE_BYTES if tiles else 0,
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
