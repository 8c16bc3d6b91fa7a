"""One row: RMS norm, the gate and up matrices, and activation(gate) * up in one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation, bias_mask, bias_params, stream
from imp_codegen.ops import Gated, Linear, RmsNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUp(Match):
    """A warp takes the same rows of both matrices."""

    norm: RmsNorm
    gate: Linear
    up: Linear
    gated: Gated

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One kernel."""
        norm, gate, up, gated = self.norm, self.gate, self.up, self.gated
        streamed = stream(low, "gate_up", norm.x.width, (gate.weight, up.weight), norm=norm, paired=True)
        kernel = KernelSpec(
            name=self.name.rpartition(".")[0] + ".gate_up",
            entry="gate_up",
            headers=("stage/gemv", *low.headers(gate.weight, up.weight)),
            stage=Cpp(
                "GatedGemv",
                (
                    streamed.gemv,
                    streamed.encode,
                    Cpp("StoreRows", (bias_mask((gate, up)),)),
                    low.matrix(gate.weight),
                    low.matrix(up.weight),
                    activation(gated),
                ),
            ),
            call=(
                low.value("const float*", "x", norm.x),
                low.plane(norm.weight, "norm"),
                (low.value("float*", "gated", gated.out), *bias_params(low, (gate, up))),
                low.plane(gate.weight, "gate"),
                low.plane(up.weight, "up"),
            ),
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(gated.out),
            weight_bytes=low.weight_bytes(gate.weight, up.weight),
            other_bytes=norm.x.width * 8 + gated.out.width * 4,
            flops=4 * gate.weight.rows * gate.weight.cols,
        )
        return (kernel,)


def match(edges: Edges, op: Op, rows: int) -> GateUp | None:
    """A norm that two matrices read, and an operation that alone reads both results."""
    if rows > 1 or not isinstance(op, RmsNorm):
        return None
    linears = edges.readers(op.out)
    gated = edges.only_reader(linears[0].out) if linears else None
    if not isinstance(gated, Gated):
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if linears not in ((gate, up), (up, gate)) or not isinstance(gate, Linear) or not isinstance(up, Linear):
        return None
    ops = (op, gate, up, gated)
    return GateUp(ops=ops, reads=((op.x,),), writes=((gated.out,),), norm=op, gate=gate, up=up, gated=gated)
