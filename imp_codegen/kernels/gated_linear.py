"""One row: the vector, one matrix, and activation(product) * part of a vector that lies in memory, in one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation, bias_mask, biases, stream
from imp_codegen.kernels.vector import Vector, up_of, vector_from
from imp_codegen.ops import Gated, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedLinear(Match):
    """The products are gates of what others have made."""

    vector: Vector
    linear: Linear
    gated: Gated

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One kernel."""
        linear, gated, weight = self.linear, self.gated, self.linear.weight
        streamed = stream(low, "project", self.vector, (weight,))
        store = Cpp("StoreGated", (bias_mask((linear,)), activation(gated)))
        kernel = KernelSpec(
            name=self.name,
            entry="gated",
            headers=("stage/gemv", *low.headers(weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(weight))),
            args={
                **self.vector.args(low),
                "out": {
                    "y": low.value("float*", gated.out),
                    "up": up_of(low, gated),
                    "bias": biases(low, (linear,)),
                },
                "plane": (low.plane(weight),),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=tuple(output for block in self.writes for value in block for output in low.output(value)),
            weight_bytes=low.weight_bytes(weight),
            other_bytes=weight.cols * 4 * (1 + len(self.vector.reads)) + gated.out.width * 8,
            flops=2 * weight.rows * weight.cols,
        )
        return (kernel,)


def match(edges: Edges, op: Op, rows: int) -> GatedLinear | None:
    """A vector that one matrix reads whose result is the gate of something that no matrix of the same vector makes."""
    vector = vector_from(edges, op, rows) if rows == 1 else None
    if vector is None:
        return None
    linears = [reader for reader in edges.readers(vector.value) if isinstance(reader, Linear)]
    gated = edges.only_reader(linears[0].out) if len(linears) == 1 else None
    if not isinstance(gated, Gated) or gated.gate != linears[0].out or gated.up == gated.gate:
        return None
    return GatedLinear(
        ops=(*vector.ops, linears[0], gated),
        reads=(*vector.reads, (gated.up,)),
        writes=((gated.out,), *vector.writes),
        over=vector.over(rows),
        vector=vector,
        linear=linears[0],
        gated=gated,
    )
