"""What the experts of a token make of a vector each, weighed, and perhaps added to the residual stream: one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, Value, Weight, label
from imp_codegen.kernels.expert_codes import codes, makes_codes
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.rows import for_rows
from imp_codegen.kernels.stream import bias_mask, biases, stream
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Add, Combine, ExpertLinear, Gated


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertDown(Match):
    """The sum of the experts' products: one product with their rows end to end, of a weighed vector.

    It is added to the residual stream, times `add`'s scale, or left where there is no `add`. `pair`: the gate and up
    stacks whose results the vector is made of, by the same route.
    """

    vector: Vector
    linear: ExpertLinear
    combine: Combine
    add: Add | None
    pair: tuple[Weight, Weight] | None

    @property
    def out(self) -> Value:
        """The result."""
        return self.add.out if self.add else self.combine.out

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One kernel, a row as any other."""
        linear, add, out, weight, used = self.linear, self.add, self.out, self.linear.weight, self.linear.used
        made = self.pair is not None and makes_codes(low, self.pair, weight, used)
        streamed = stream(low, "expert_down", self.vector, (weight,), used=used, made=made)
        x = codes(low, "const std::uint8_t*", weight, used) if made else low.value("const float*", linear.x)
        store = Cpp("StoreExperts", (0,))
        if add:
            store = Cpp("AddExperts", (bias_mask((linear,)), used, weight.each, float(add.scale)))
        kernel = KernelSpec(
            name=self.name.rpartition(".")[0] + "." + linear.out.name.rpartition(".")[2],
            entry="expert_down",
            headers=("stage/expert_gemv", *low.headers(weight)),
            stage=Cpp("ExpertDown", (streamed.gemv, streamed.encode, used, weight.experts, store, low.matrix(weight))),
            args={
                "x": x,
                "norm": None,
                "route": {"route": low.value("const float*", linear.route)},
                "out": {"y": low.value("float*", out), "bias": biases(low, (linear,))},
                "plane": (low.plane(weight),),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(out),
            weight_bytes=low.weight_bytes(weight, used=used),
            other_bytes=linear.x.width * 4 + out.width * (8 if add else 4),
            flops=2 * used * weight.each * weight.cols,
        )
        return (for_rows(low, kernel, linear.x, out),)


def match(edges: Edges, op: Op, rows: int) -> ExpertDown | None:
    """A stack with a vector for each expert, whose results are combined by the same route, and perhaps added."""
    if not isinstance(op, ExpertLinear) or op.x.width != op.used * op.weight.cols:
        return None
    combine = edges.only_reader(op.out)
    if not isinstance(combine, Combine) or combine.x != op.out or combine.route != op.route:
        return None
    pair = _pair(edges, op)
    add = edges.only_reader(combine.out)
    if not isinstance(add, Add):
        if op.bias:
            raise FusionError(f"{label(op)}: has a bias, which is unsupported where its sum is added to nothing")
        return ExpertDown(
            ops=(op, combine),
            reads=((op.x,), (op.route,)),
            writes=((combine.out,),),
            vector=Vector(op.x),
            linear=op,
            combine=combine,
            add=None,
            pair=pair,
        )
    if add.x == add.y:
        return None
    if add.scale != 1 and add.y != combine.out:
        raise FusionError(f"{label(add)}: scales the residual stream, not what is added to it, which is unsupported")
    residual = add.y if add.x == combine.out else add.x
    return ExpertDown(
        ops=(op, combine, add),
        reads=((op.x,), (op.route,), (residual,)),
        writes=((add.out,),),
        over={add.out: residual},
        vector=Vector(op.x),
        linear=op,
        combine=combine,
        add=add,
        pair=pair,
    )


def _pair(edges: Edges, op: ExpertLinear) -> tuple[Weight, Weight] | None:
    gated = edges.maker(op.x)
    if not isinstance(gated, Gated) or edges.only_reader(gated.out) is not op:
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if not isinstance(gate, ExpertLinear) or not isinstance(up, ExpertLinear) or gate.route != op.route:
        return None
    return gate.weight, up.weight
