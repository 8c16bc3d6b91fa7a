"""Matrices that read one vector, normed or not: in one kernel for one row, even if their formats differ."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.choice import cheapest
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.gemm import products
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, biases, stream, ways_of_rows
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class NormLinear(Match):
    """The results of all matrices side by side."""

    vector: Vector
    linears: tuple[Linear, ...]

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: all in one kernel. Several: that for each of them, or they are encoded, then multiplied together."""
        if low.rows == 1:
            return (self._streamed(low),)
        return cheapest(low, (self._products, *ways_of_rows(low, self.name, self.vector, self._streamed)))

    def _streamed(self, low: Lowering) -> KernelSpec:
        linears, cols = self.linears, self.vector.value.width
        weights = tuple(op.weight for op in linears)
        width = sum(op.out.width for op in linears)
        kind = "qkv" if self.vector.norm or len(linears) > 1 else "project"
        streamed = stream(low, kind, self.vector, weights)
        store = Cpp("StoreRows", (bias_mask(linears),))
        return KernelSpec(
            name=self.name if kind == "project" else _name(linears),
            entry=kind,
            headers=("stage/gemv", *low.headers(*weights)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, *map(low.matrix, weights))),
            args={
                **self.vector.args(low),
                "out": {"y": low.value("float*", linears[0].out), "bias": biases(low, linears)},
                "plane": tuple(map(low.plane, weights)),
            },
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=tuple(output for block in self.writes for value in block for output in low.output(value)),
            weight_bytes=low.weight_bytes(*weights),
            other_bytes=cols * 4 * len(self.vector.reads) + (cols * 4 if self.vector.norm else 0) + width * 4,
            flops=2 * sum(w.rows * w.cols for w in weights),
        )

    def _products(self, low: Lowering) -> tuple[KernelSpec, ...]:
        return products(low, self.vector, self.linears)


def _name(linears: tuple[Linear, ...]) -> str:
    """The layer and what is made, in one word where that is q, and perhaps k and v."""
    layer, _, _ = linears[0].out.name.rpartition(".")
    parts = [linear.out.name.rpartition(".")[2] for linear in linears]
    return f"{layer}.{'qkv' if set(parts) <= set('qkv') else '_'.join(parts)}"


def match(edges: Edges, op: Op, rows: int) -> NormLinear | None:
    """A vector that only matrices read, or that lies in memory anyway."""
    vector = vector_from(edges, op, rows)
    if vector is None:
        return None
    readers = edges.readers(vector.value)
    linears = tuple(reader for reader in readers if isinstance(reader, Linear))
    in_memory = vector.value in (value for block in (*vector.reads, *vector.writes) for value in block)
    if not linears or (len(linears) < len(readers) and not in_memory):
        return None
    products = tuple(linear.out for linear in linears)
    return NormLinear(
        ops=(*vector.ops, *linears),
        reads=vector.reads,
        writes=(products, *vector.writes),
        over=vector.over(rows),
        vector=vector,
        linears=linears,
    )
