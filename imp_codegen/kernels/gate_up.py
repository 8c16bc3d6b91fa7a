"""The gate and up matrices of one vector, and activation(gate) * up, in one kernel.

For one row that kernel encodes the vector, too. For several there is such a kernel where warpgroups multiply; elsewhere
the activation belongs to the encoder before the next product.
"""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels import gemm_wgmma
from imp_codegen.kernels.choice import cheapest
from imp_codegen.kernels.encode import PEAK, encode
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation, bias_mask, biases, stream, ways_of_rows
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import Gated, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUp(Match):
    """A warp takes the same rows of both matrices."""

    vector: Vector
    gate: Linear
    up: Linear
    gated: Gated

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: one kernel. Several: that for each of them, or they are encoded, then multiplied."""
        if low.rows == 1:
            return (self._streamed(low),)
        return cheapest(low, (self._products, *ways_of_rows(low, self.name, self.vector, self._streamed)))

    def _products(self, low: Lowering) -> tuple[KernelSpec, ...]:
        encoded = encode(low, self.vector, peak=PEAK)
        return (encoded, gemm_wgmma.gemm(low, (self.gate, self.up), gated=self.gated))

    def _streamed(self, low: Lowering) -> KernelSpec:
        linears, gated, cols = (self.gate, self.up), self.gated, self.vector.value.width
        weights = (self.gate.weight, self.up.weight)
        streamed = stream(low, "gate_up", self.vector, weights, paired=True)
        store = Cpp("StoreRows", (bias_mask(linears),))
        return KernelSpec(
            name=self.gate.out.name + "_up",
            entry="gate_up",
            headers=("stage/gemv", *low.headers(*weights)),
            stage=Cpp(
                "GatedGemv",
                (streamed.gemv, streamed.encode, store, *map(low.matrix, weights), activation(gated)),
            ),
            args={
                **self.vector.args(low),
                "out": {"y": low.value("float*", gated.out), "bias": biases(low, linears)},
                "plane": tuple(map(low.plane, weights)),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=tuple(output for block in self.writes for value in block for output in low.output(value)),
            weight_bytes=low.weight_bytes(*weights),
            other_bytes=cols * 4 * (1 + len(self.vector.reads)) + gated.out.width * 4,
            flops=4 * self.gate.weight.rows * self.gate.weight.cols,
        )


def match(edges: Edges, op: Op, rows: int) -> GateUp | None:
    """A vector that two matrices read, and an operation that alone reads both results."""
    vector = vector_from(edges, op, rows)
    if vector is None:
        return None
    linears = tuple(reader for reader in edges.readers(vector.value) if isinstance(reader, Linear))
    gated = edges.only_reader(linears[0].out) if linears else None
    if not isinstance(gated, Gated):
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if linears not in ((gate, up), (up, gate)) or not isinstance(gate, Linear) or not isinstance(up, Linear):
        return None
    if rows > 1 and not edges.pairs(gate.weight, up.weight):
        return None
    return GateUp(
        ops=(*vector.ops, gate, up, gated),
        reads=vector.reads,
        writes=((gated.out,), *vector.writes),
        over=vector.over(rows),
        vector=vector,
        gate=gate,
        up=up,
        gated=gated,
    )
