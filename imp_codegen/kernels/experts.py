"""Several rows: a router, the experts that it chooses, and their sum, perhaps added to the residual stream.

Either each row streams the weights of its own experts (expert_gate_up.py, expert_down.py), or products go expert by
expert: rows are sorted by their experts, whose weights are read once.
"""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels import expert_down, expert_gate_up, gemm_fp4, gemm_mma, gemm_wgmma, router
from imp_codegen.kernels.choice import cheapest
from imp_codegen.kernels.encode import encode
from imp_codegen.kernels.expert_down import ExpertDown
from imp_codegen.kernels.expert_gate_up import ExpertGateUp
from imp_codegen.kernels.expert_places import Places
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.gemm_panels import Products, takes
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Gated

_OFTEN = 2  # rows that share an expert, on average
# By so much a step must be faster by expert in the prediction: 8 rows of six layers of Mixtral took 2,356 us by row and
# 2,598 with two of the layers by expert, for which 84 us less had been predicted (H200).
_BY_EXPERT = 1.15
_ROUTE_WARPS = 4
_COMBINE_THREADS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts(Match):
    """Both halves of a mixture."""

    first: ExpertGateUp
    second: ExpertDown

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """By expert, if all products can be made so; steps of several sequences the faster way of both.

        Where times mean nothing, by expert if rows share an expert often.
        """
        weights = (self.first.gate.weight, self.first.up.weight, self.second.linear.weight)
        gate, up, _ = weights
        alike = (low.layout(gate), low.tile(gate)) == (low.layout(up), low.tile(up))
        if not (alike and all(takes(low, weight) for weight in weights)):
            return self._by_row(low)
        if not low.batch:
            return self._by_expert(low)
        shared = low.rows * self.first.route.used > _OFTEN * Places(self.first.route, low.rows, 1).likely_experts
        if shared:
            return cheapest(low, (self._by_expert, self._by_row), (_BY_EXPERT, 1.0))
        return cheapest(low, (self._by_row, self._by_expert), (1.0, _BY_EXPERT))

    def _by_row(self, low: Lowering) -> tuple[KernelSpec, ...]:
        return (self._router(low), *self.first.lower(low)[1:], *self.second.lower(low))

    def _router(self, low: Lowering) -> KernelSpec:
        first = self.first
        if router.takes(low, first.by, first.router):
            return router.router_rows(low, first.by, first.router)
        return first.lower(low)[0]

    def _by_expert(self, low: Lowering) -> tuple[KernelSpec, ...]:
        first, second = self.first, self.second
        pair, down = (first.gate, first.up), (second.linear,)
        tile = (gemm_wgmma if low.target.wgmma else gemm_mma).tile_pairs(low, first.route)
        places = Places(first.route, low.rows, tile)
        return (
            self._router(low),
            *first.of_all(low),
            self._route(low),
            places.kernel(low),
            *_multiplied(low, first.vector, pair, places, gated=first.gated),
            *_multiplied(low, Vector(second.linear.x), down, places, each=True),
            self._combine(low),
        )

    def _route(self, low: Lowering) -> KernelSpec:
        route = self.first.route
        return KernelSpec(
            name=route.out.name,
            entry="route",
            headers=("stage/route_rows",),
            stage=Cpp("RouteRows", (expert_gate_up.route_config(route), _ROUTE_WARPS)),
            args={
                "logits": low.value("const float*", route.logits),
                "route": low.value("float*", route.out),
                "step": low.step(),
                **expert_gate_up.route_vectors(low, route),
            },
            grid=(-(-low.rows // _ROUTE_WARPS), 1, 1),
            threads=_ROUTE_WARPS * 32,
            shared_bytes=0,
            overlap=True,
            ops=(label(route),),
            outputs=low.output(route.out),
            other_bytes=low.rows * (route.logits.width + route.out.width) * 4,
        )

    def _combine(self, low: Lowering) -> KernelSpec:
        second = self.second
        add, used, cols = second.add, second.linear.used, second.combine.out.width
        config = Config(
            "CombineConfig",
            (
                ("cols", cols),
                ("used", used),
                ("threads", _COMBINE_THREADS),
                ("scale", float(add.scale) if add else 1.0),
                ("accumulate", add is not None),
            ),
        )
        return KernelSpec(
            name=self.name,
            entry="combine",
            headers=("stage/combine",),
            stage=Cpp("CombineRows", (config,)),
            args={
                "x": low.value("const float*", second.linear.out),
                "route": low.value("const float*", second.combine.route),
                "y": low.value("float*", second.out),
                "step": low.step(),
            },
            grid=(-(-cols // (4 * _COMBINE_THREADS)), low.rows, 1),
            threads=_COMBINE_THREADS,
            shared_bytes=0,
            overlap=True,
            ops=tuple(map(label, second.ops[1:])),
            outputs=low.output(second.out),
            other_bytes=low.rows * (used + (2 if add else 1)) * cols * 4,
            flops=2 * low.rows * used * cols,
        )


def _multiplied(
    low: Lowering, vector: Vector, linears: Products, places: Places, *, gated: Gated | None = None, each: bool = False
) -> tuple[KernelSpec, ...]:
    """The vector at the places of its pairs, and its products there."""
    weights = tuple(op.weight for op in linears)
    if gemm_fp4.takes(low, weights):
        encoded = encode(low, vector, fp4=True, places=places, each=each)
        return (encoded, gemm_fp4.gemm(low, linears, gated=gated, places=places))
    by = gemm_wgmma if low.target.wgmma else gemm_mma
    encoded = encode(low, vector, peak=by.peak(low, weights), places=places, each=each)
    return (encoded, by.gemm(low, linears, gated=gated, places=places))


def match(edges: Edges, op: Op, rows: int) -> Experts | None:
    """What expert_gate_up.py and, behind it, expert_down.py take by the same route."""
    first = expert_gate_up.match(edges, op, rows) if rows > 1 else None
    reader = edges.only_reader(first.gated.out) if first else None
    second = expert_down.match(edges, reader, rows) if reader else None
    if first is None or second is None or second.linear.route != first.route.out:
        return None
    return Experts(
        ops=(*first.ops, *second.ops),
        reads=tuple(dict.fromkeys((*first.reads, *second.reads[2:]))),
        writes=(*first.writes, (second.linear.out,), *second.writes),
        over=second.over,
        first=first,
        second=second,
    )
