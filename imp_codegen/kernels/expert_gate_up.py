"""A router, and activation(gate) * up of the experts that it chooses: two kernels, for any number of rows.

And those of one more expert that all tokens go to (shared_expert.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.rows import for_rows
from imp_codegen.kernels.shared_expert import Shared, match_shared
from imp_codegen.kernels.stream import activation, bias_mask, biases, stream
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import ExpertLinear, Gated, Linear, RmsNorm, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGateUp(Match):
    """The second kernel chooses by the first one's logits; each CTA does so for itself.

    `by`: the router's vector, `vector`: that of the experts.
    """

    by: Vector
    vector: Vector
    router: Linear
    route: Route
    gate: ExpertLinear
    up: ExpertLinear
    gated: Gated
    shared: Shared | None

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The router and the experts, a row as any other."""
        return (
            for_rows(low, self._logits(low), self.by.reads[0][0], self.router.out),
            for_rows(low, self._experts(low), self.vector.reads[0][0], self.gated.out),
            *self.of_all(low),
        )

    @property
    def _own_ops(self) -> tuple[Op, ...]:
        """What makes the experts' vector, where it is not the router's."""
        return self.vector.ops if self.vector is not self.by else ()

    def of_all(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The expert that all tokens go to; nothing where there is none."""
        return self.shared.lower(low, self.vector) if self.shared else ()

    def _logits(self, low: Lowering) -> KernelSpec:
        router, weight = self.router, self.router.weight
        streamed = stream(low, "router", self.by, (weight,))
        store = Cpp("StoreRows", (bias_mask((router,)),))
        return KernelSpec(
            name=router.out.name,
            entry="router",
            headers=("stage/gemv", *low.headers(weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(weight))),
            args={
                **self.by.args(low),
                "out": {"y": low.value("float*", router.out), "bias": biases(low, (router,))},
                "plane": (low.plane(weight),),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=(*map(label, self.by.ops), label(router)),
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
                    **route_vectors(low, route),
                },
                "out": {"y": low.value("float*", gated.out), "bias": biases(low, (self.gate, self.up))},
                "plane": tuple(map(low.plane, weights)),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=(label(route), *map(label, self._own_ops), label(self.gate), label(self.up), label(gated)),
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


def route_vectors(low: Lowering, route: Route) -> dict[str, Param | None]:
    """What is added to scores while experts are chosen, and what multiplies shares, if anything does."""
    vectors = {"correction": route.correction, "scales": route.scales}
    return {name: low.plane(weight) if weight else None for name, weight in vectors.items()}


def match(edges: Edges, op: Op, rows: int) -> ExpertGateUp | None:
    """A vector that a router reads, and two stacks by its route, whose results one operation reads.

    The stacks read the router's vector, or another one, which is normed.
    """
    by = vector_from(edges, op, rows)
    if by is None:
        return None
    routes = [(each, route) for each in edges.readers(by.value) if (route := _route(edges, each))]
    if len(routes) != 1:
        return None
    ((router, route),) = routes
    assert isinstance(router, Linear)
    vector = _of_experts(edges, by, route, rows)
    if vector is None:
        return None
    for each in (by, vector):
        if not each.plain:
            raise FusionError(
                f"{label(router)}: {each.value.name} is a sum of branches with norms, which is unsupported"
            )
    readers = edges.readers(vector.value)
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
    if (rest and shared is None) or (vector is not by and edges.only_reader(by.value) is not router):
        return None
    own = vector.ops if vector is not by else ()
    return ExpertGateUp(
        ops=(*by.ops, router, route, *own, gate, up, *(shared.ops if shared else ()), gated),
        reads=tuple(dict.fromkeys((*by.reads, *vector.reads))),
        writes=((router.out,), (route.out,), (gated.out,), *(shared.writes(rows) if shared else ())),
        by=by,
        vector=vector,
        router=router,
        route=route,
        gate=gate,
        up=up,
        gated=gated,
        shared=shared,
    )


def _of_experts(edges: Edges, by: Vector, route: Route, rows: int) -> Vector | None:
    """The vector that the route's first stack reads."""
    first = next((each for each in edges.readers(route.out) if isinstance(each, ExpertLinear)), None)
    if first is None or first.x == by.value:
        return by if first else None
    maker = edges.maker(first.x)
    return vector_from(edges, maker, rows) if isinstance(maker, RmsNorm) else None


def _route(edges: Edges, op: Op) -> Route | None:
    """What chooses experts by the result of a matrix."""
    routes = [each for each in edges.readers(op.out) if isinstance(each, Route)] if isinstance(op, Linear) else []
    return routes[0] if len(routes) == 1 else None
