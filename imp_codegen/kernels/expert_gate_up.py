"""A router, and activation(gate) * up of the experts that it chooses: two kernels, for any number of rows.

And those of one more expert that all tokens go to (shared_expert.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, Value, label
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.rows import for_rows
from imp_codegen.kernels.shared_expert import Shared, match_shared
from imp_codegen.kernels.stream import activation, bias_mask, biases, stream
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import ExpertLinear, Gated, Linear, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGateUp(Match):
    """The second kernel chooses by the first one's logits; each CTA does so for itself."""

    vector: Vector
    router: Linear
    route: Route
    gate: ExpertLinear
    up: ExpertLinear
    gated: Gated
    shared: Shared | None

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The router and the experts, a row as any other."""
        x = self.vector.reads[0][0]
        return (
            for_rows(low, self._logits(low), x, self.router.out),
            for_rows(low, self._experts(low), x, self.gated.out),
            *self.of_all(low),
        )

    def of_all(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The expert that all tokens go to; nothing where there is none."""
        return self.shared.lower(low, self.vector) if self.shared else ()

    def _logits(self, low: Lowering) -> KernelSpec:
        router, weight = self.router, self.router.weight
        streamed = stream(low, "router", self.vector, (weight,))
        store = Cpp("StoreRows", (bias_mask((router,)),))
        return KernelSpec(
            name=router.out.name,
            entry="router",
            headers=("stage/gemv", *low.headers(weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(weight))),
            args={
                **self.vector.args(low),
                "out": {"y": low.value("float*", router.out), "bias": biases(low, (router,))},
                "plane": (low.plane(weight),),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=(*map(label, self.vector.ops), label(router)),
            outputs=low.output(router.out),
            weight_bytes=low.weight_bytes(weight),
            other_bytes=weight.cols * 8 + router.out.width * 4,
            flops=2 * weight.rows * weight.cols,
        )

    def _experts(self, low: Lowering) -> KernelSpec:
        route, gated, used = self.route, self.gated, self.route.used
        weights = (self.gate.weight, self.up.weight)
        streamed = stream(low, "expert_gate_up", self.vector, weights, paired=True, used=used)
        store = Cpp("StoreExperts", (bias_mask((self.gate, self.up)),))
        return KernelSpec(
            name=self.name.rpartition(".")[0] + ".gate_up",
            entry="expert_gate_up",
            headers=("stage/expert_gemv", *low.headers(*weights)),
            stage=Cpp(
                "ExpertGateUp",
                (
                    streamed.gemv,
                    streamed.encode,
                    route_config(route),
                    store,
                    *map(low.matrix, weights),
                    activation(gated),
                ),
            ),
            args={
                **self.vector.args(low),
                "route": {
                    "logits": low.value("const float*", self.router.out),
                    "route": low.value("float*", route.out),
                    "correction": route_correction(low, route),
                },
                "out": {"y": low.value("float*", gated.out), "bias": biases(low, (self.gate, self.up))},
                "plane": tuple(map(low.plane, weights)),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=(label(route), label(self.gate), label(self.up), label(gated)),
            outputs=(*low.output(route.out), *low.output(gated.out)),
            weight_bytes=low.weight_bytes(*weights, used=used),
            other_bytes=self.vector.value.width * 8 + route.experts * 4 + gated.out.width * 4,
            flops=4 * used * self.gate.weight.each * self.gate.weight.cols,
        )


def route_config(route: Route) -> Config:
    """How a route is chosen (stage/route.h)."""
    fields = (
        ("experts", route.experts),
        ("others", route.others),
        ("used", route.used),
        ("normalise", route.normalise),
        ("sigmoid", route.sigmoid),
        ("groups", route.groups),
        ("groups_used", route.groups_used),
        ("scale", float(route.scale)),
    )
    return Config("RouteConfig", fields)


def route_correction(low: Lowering, route: Route) -> Param | None:
    """What is added to scores while experts are chosen, if anything is."""
    return low.plane(route.correction) if route.correction else None


def match(edges: Edges, op: Op, rows: int) -> ExpertGateUp | None:
    """A vector that a router reads, and two stacks by its route, whose results one operation reads."""
    vector = vector_from(edges, op, rows)
    if vector is None:
        return None
    readers = edges.readers(vector.value)
    routes = [(each, route) for each in readers if (route := _route(edges, each))]
    if len(routes) != 1:
        return None
    ((router, route),) = routes
    assert isinstance(router, Linear)
    if not vector.plain or not isinstance(vector.value, Value):
        raise FusionError(f"{label(router)}: a router's vector is a sum of branches with norms, which is unsupported")
    linears = [each for each in readers if isinstance(each, ExpertLinear) and each.route == route.out]
    gated = edges.only_reader(linears[0].out) if linears else None
    if not isinstance(gated, Gated) or gated.begin:
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if {*linears} != {gate, up} or not isinstance(gate, ExpertLinear) or not isinstance(up, ExpertLinear):
        return None
    if len(linears) != 2 or any(each.weight.experts != route.experts for each in linears):
        return None
    rest = [each for each in readers if each not in (router, gate, up)]
    shared = match_shared(edges, router, rest) if rest else None
    if rest and shared is None:
        return None
    return ExpertGateUp(
        ops=(*vector.ops, router, route, gate, up, *(shared.ops if shared else ()), gated),
        reads=vector.reads,
        writes=((router.out,), (route.out,), (gated.out,), *(shared.writes(rows) if shared else ())),
        vector=vector,
        router=router,
        route=route,
        gate=gate,
        up=up,
        gated=gated,
        shared=shared,
    )


def _route(edges: Edges, op: Op) -> Route | None:
    """What chooses experts by the result of a matrix."""
    routes = [each for each in edges.readers(op.out) if isinstance(each, Route)] if isinstance(op, Linear) else []
    return routes[0] if len(routes) == 1 else None
