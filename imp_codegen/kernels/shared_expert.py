"""Activation(gate) * up of an expert that all tokens go to, times what it counts; for several rows by products."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imp_codegen.graph import Edges, Op, Value, label
from imp_codegen.kernels.family import Block
from imp_codegen.kernels.gemm import products
from imp_codegen.kernels.kernel_spec import Argument, Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import activation, stream
from imp_codegen.kernels.vector import Vector
from imp_codegen.ops import Gated, Linear, Weigh
from imp_runtime.plan import Binding

_THREADS = 128


@dataclass(frozen=True, slots=True)
class Shared:
    """Its operations; `weigh` says what it counts, if anything does."""

    gate: Linear
    up: Linear
    gated: Gated
    weigh: Weigh | None

    @property
    def ops(self) -> tuple[Op, ...]:
        """In order."""
        return (self.gate, self.up, self.gated, *((self.weigh,) if self.weigh else ()))

    @property
    def out(self) -> Value:
        """The result."""
        return self.ops[-1].out

    def writes(self, rows: int) -> tuple[Block, ...]:
        """What its kernels leave in memory."""
        return ((self.out,), *(((self.gate.out, self.up.out),) if rows > 1 else ()))

    def lower(self, low: Lowering, vector: Vector) -> tuple[KernelSpec, ...]:
        """The kernels for that vector of each row."""
        if low.several:
            encoded, *multiplied = products(low, vector, (self.gate, self.up))
            encoded = replace(encoded, name=self.gate.out.name + ".encode")  # the router may have one of the vector
            return (encoded, *multiplied, self._gate_rows(low))
        return (self._streamed(low, vector),)

    def _streamed(self, low: Lowering, vector: Vector) -> KernelSpec:
        weights = (self.gate.weight, self.up.weight)
        streamed = stream(low, "gate_up", vector, weights, paired=True)
        store, out = Cpp("StoreRows", (0,)), dict[str, Argument](y=low.value("float*", self.out))
        if self.weigh:
            store, out["gate"] = Cpp("StoreWeighed"), _weight(low, self.weigh)
        else:
            out["bias"] = (None,)
        return KernelSpec(
            name=self.out.name,
            entry="gate_up",
            headers=("stage/gemv", *low.headers(*weights)),
            stage=Cpp(
                "GatedGemv",
                (streamed.gemv, streamed.encode, store, *map(low.matrix, weights), activation(self.gated)),
            ),
            args={**vector.args(low), "out": out, "plane": tuple(map(low.plane, weights))},
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(self.out),
            weight_bytes=low.weight_bytes(*weights),
            other_bytes=vector.value.width * 8 + self.out.width * 4,
            flops=4 * self.gate.weight.rows * self.gate.weight.cols,
        )

    def _gate_rows(self, low: Lowering) -> KernelSpec:
        cols = self.out.width
        config = Config(
            "GateRowsConfig",
            (
                ("cols", cols),
                ("stride", low.places[self.gate.out].stride),
                ("weights", low.places[self.weigh.gate].stride if self.weigh else 0),
                ("threads", _THREADS),
            ),
        )
        return KernelSpec(
            name=self.out.name,
            entry="gate_rows",
            headers=("stage/gate_rows",),
            stage=Cpp("GateRows", (config, activation(self.gated))),
            args={
                "gate": low.value("const float*", self.gate.out),
                "up": low.value("const float*", self.up.out),
                "weight": _weight(low, self.weigh) if self.weigh else None,
                "y": low.value("float*", self.out),
                "step": low.step(),
            },
            grid=(-(-cols // (4 * _THREADS)), low.rows, 1),
            threads=_THREADS,
            shared_bytes=0,
            overlap=True,
            ops=tuple(map(label, self.ops[2:])),
            outputs=low.output(self.out),
            other_bytes=low.rows * cols * 12,
        )


def _weight(low: Lowering, weigh: Weigh) -> Param:
    """Where lies what the first row counts, before the sigmoid."""
    place = low.places[weigh.gate]
    return Param("const float*", Binding(place.buffer, (place.column + weigh.at) * 4))


def match_shared(edges: Edges, router: Linear, linears: list[Op]) -> Shared | None:
    """Two matrices whose results one operation reads, and what weighs that, if the router's result says it."""
    gated = edges.only_reader(linears[0].out)
    if not isinstance(gated, Gated) or gated.begin:
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if not isinstance(gate, Linear) or not isinstance(up, Linear) or linears not in ([gate, up], [up, gate]):
        return None
    if gate.bias or up.bias:
        return None
    weigh = edges.only_reader(gated.out)
    if not isinstance(weigh, Weigh):
        return Shared(gate, up, gated, None)
    return Shared(gate, up, gated, weigh) if weigh.gate == router.out and weigh.x == gated.out else None
