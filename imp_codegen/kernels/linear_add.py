"""A matrix whose result is added to the residual stream: attention output, MLP down projection."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.choice import cheapest
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.gemm import products
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, biases, stream, ways_of_rows
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import Add, Gated, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAdd(Match):
    """X += scale * W input."""

    vector: Vector
    linear: Linear
    add: Add

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: one kernel. Several: that for each of them, or they are encoded, then a product that adds."""
        if low.rows == 1:
            return (self._streamed(low),)
        return cheapest(low, (self._products, *ways_of_rows(low, self.name, self.vector, self._streamed)))

    def _products(self, low: Lowering) -> tuple[KernelSpec, ...]:
        return products(low, self.vector, (self.linear,), add=self.add)

    def _streamed(self, low: Lowering) -> KernelSpec:
        linear, add, weight = self.linear, self.add, self.linear.weight
        streamed = stream(low, "project", self.vector, (weight,))
        store = Cpp("AddRows", (bias_mask((linear,)), float(add.scale)))
        return KernelSpec(
            name=self.name.rpartition(".")[0] + "." + linear.out.name.rpartition(".")[2],
            entry="project",
            headers=("stage/gemv", *low.headers(weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(weight))),
            args={
                "x": low.value("const float*", linear.x),
                "norm": None,
                "out": {"y": low.value("float*", add.out), "bias": biases(low, (linear,))},
                "plane": (low.plane(weight),),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(add.out),
            weight_bytes=low.weight_bytes(weight),
            other_bytes=linear.x.width * 4 + add.out.width * 8,
            flops=2 * weight.rows * weight.cols,
        )


def match(edges: Edges, op: Op, rows: int) -> LinearAdd | None:
    """A matrix whose result only an addition reads; for several rows also the activation before it."""
    vector = vector_from(edges, op, rows) if isinstance(op, Linear | Gated) else None
    linear = edges.only_reader(op.out) if isinstance(op, Gated) else op
    if vector is None or not isinstance(linear, Linear):
        return None
    add = edges.only_reader(linear.out)
    if not isinstance(add, Add) or add.x == add.y:
        return None
    if add.scale != 1 and add.y != linear.out:
        raise FusionError(f"{label(add)}: scales the residual stream, not what is added to it, which is unsupported")
    residual = add.y if add.x == linear.out else add.x
    return LinearAdd(
        ops=(*vector.ops, linear, add),
        reads=(*vector.reads, (residual,)),
        writes=((add.out,),),
        over={add.out: residual},
        vector=vector,
        linear=linear,
        add=add,
    )
