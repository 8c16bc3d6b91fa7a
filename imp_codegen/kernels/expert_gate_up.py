"""A router, and activation(gate) * up of the experts that it chooses: two kernels, for any number of rows.

And those of one more expert that all tokens go to (shared_expert.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.expert_codes import codes, held_bytes, makes_codes
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.kernel_spec import Argument, Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.rows import for_rows
from imp_codegen.kernels.shared_expert import Shared, match_shared
from imp_codegen.kernels.stream import activation, bias_mask, biases, stream
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import ExpertLinear, Gated, Linear, RmsNorm, Route

_HELD = 32768  # weights of a router that a CTA's registers hold
_MOST_HELD = 31  # rows of it: a lane adds up a logit, one more the squares


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGateUp(Match):
    """The second kernel chooses by the first one's logits; each CTA does so for itself.

    `by`: the router's vector, `vector`: that of the experts. `down`: what alone reads what they make, if that is so.
    """

    by: Vector
    vector: Vector
    router: Linear
    route: Route
    gate: ExpertLinear
    up: ExpertLinear
    gated: Gated
    shared: Shared | None
    down: ExpertLinear | None

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The router and the experts, a row as any other; in one kernel where each of its CTAs can hold the router."""
        if self._holds_router(low):
            return (self._experts(low, own=True), *self.of_all(low))
        return (
            for_rows(low, self._logits(low), self.by.reads[0][0], self.router.out),
            for_rows(low, self._experts(low), self.vector.reads[0][0], self.gated.out),
            *self.of_all(low),
        )

    def _holds_router(self, low: Lowering) -> bool:
        router = self.router.weight
        plain = self.vector is self.by and self.vector.plain and self.vector.norm is not None and not self.route.others
        held = router.rows * router.cols <= _HELD and router.rows <= _MOST_HELD
        return (
            not low.several and plain and held and low.layout(router).name == "F32" and low.wants_q8(self.gate.weight)
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

    def _experts(self, low: Lowering, *, own: bool = False) -> KernelSpec:
        route, gated, used = self.route, self.gated, self.route.used
        weights = (self.gate.weight, self.up.weight)
        down = self.down.weight if self.down and makes_codes(low, weights, self.down.weight, used) else None
        held = (held_bytes(low, down, used) if down else 0) + (self._router_bytes() if own else 0)
        streamed = stream(low, "expert_gate_up", self.vector, weights, paired=True, used=used, held=held)
        mask = bias_mask((self.gate, self.up))
        store = Cpp("EncodeExperts", (mask, streamed.gemv, used, down.cols)) if down else Cpp("StoreExperts", (mask,))
        out: dict[str, Argument] = {"y": low.value("float*", gated.out), "bias": biases(low, (self.gate, self.up))}
        if down:
            out["made"] = codes(low, "std::uint8_t*", down, used)
        chosen_by = (self.router.weight,) if own else ()
        logits = (*map(label, self.by.ops), label(self.router)) if own else ()
        return KernelSpec(
            name=self.name.rpartition(".")[0] + ".gate_up",
            entry="expert_gate_up",
            headers=("stage/expert_gemv", *low.headers(*weights, *chosen_by)),
            stage=Cpp(
                "RoutedGateUp" if own else "ExpertGateUp",
                (
                    streamed.gemv,
                    streamed.encode,
                    route_config(route),
                    *map(low.matrix, chosen_by),
                    store,
                    *map(low.matrix, weights),
                    activation(gated),
                ),
            ),
            args={
                **self.vector.args(low),
                "route": {
                    **(self._router(low) if own else {"logits": low.value("const float*", self.router.out)}),
                    "route": low.value("float*", route.out),
                    **route_vectors(low, route),
                },
                "out": out,
                "plane": tuple(map(low.plane, weights)),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=(*logits, label(route), *map(label, self._own_ops), label(self.gate), label(self.up), label(gated)),
            outputs=(*(low.output(self.router.out) if own else ()), *low.output(route.out), *low.output(gated.out)),
            weight_bytes=low.weight_bytes(*weights, *chosen_by, used=used),
            other_bytes=self.vector.value.width * 8 + route.experts * 4 + gated.out.width * 4,
            flops=4 * used * self.gate.weight.each * self.gate.weight.cols,
        )

    def _router(self, low: Lowering) -> dict[str, Argument]:
        router = self.router
        return {
            "router": low.plane(router.weight),
            "bias": low.plane(router.bias) if router.bias else None,
            "logits": low.value("float*", router.out),
        }

    def _router_bytes(self) -> int:
        """Shared memory of a router's sums, of 128 columns each, and logits (stage/own_route.h)."""
        router = self.router.weight
        return round_up((-(-router.cols // 128) * (router.rows + 1) + 32 * router.rows) * 4, 16)


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
    reader = edges.only_reader(gated.out)
    down = reader if isinstance(reader, ExpertLinear) and reader.route == route.out else None
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
        down=down,
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
