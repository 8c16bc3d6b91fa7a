"""RMS norm and the matrices that read its result: in one kernel for one row, even if their formats differ."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.gemm import encode, gemm
from imp_codegen.kernels.kernel_spec import Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.stream import bias_mask, bias_params, stream
from imp_codegen.ops import Linear, RmsNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class NormLinear(Match):
    """The results of all matrices side by side."""

    norm: RmsNorm
    linears: tuple[Linear, ...]

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: all in one kernel. Several: the normed rows are encoded, then a product for each matrix."""
        return (self._streamed(low),) if low.rows == 1 else tuple(self._products(low))

    def _streamed(self, low: Lowering) -> KernelSpec:
        norm, linears = self.norm, self.linears
        weights = tuple(op.weight for op in linears)
        width = sum(op.out.width for op in linears)
        streamed = stream(low, "qkv", norm.x.width, weights, norm=norm)
        store = Cpp("StoreRows", (bias_mask(linears),))
        return KernelSpec(
            name=self.name.rpartition(".")[0] + ".qkv",
            entry="qkv",
            headers=("stage/gemv", *low.headers(*weights)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, *map(low.matrix, weights))),
            call=(
                low.value("const float*", "x", norm.x),
                low.plane(norm.weight, "norm"),
                (low.value("float*", "y", linears[0].out), *bias_params(low, linears)),
                *(low.plane(w, f"w{i}") for i, w in enumerate(weights)),
            ),
            grid=(low.target.sms, 1, 1),
            threads=streamed.warps * 32,
            shared_bytes=streamed.shared,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=tuple(output for op in linears for output in low.output(op.out)),
            weight_bytes=low.weight_bytes(*weights),
            other_bytes=norm.x.width * 8 + width * 4,
            flops=2 * sum(w.rows * w.cols for w in weights),
        )

    def _products(self, low: Lowering) -> list[KernelSpec]:
        weights = tuple(op.weight for op in self.linears)
        encoded = encode(low, self.norm.out, (self.norm.x,), weights, self.norm)
        return [encoded, *(gemm(low, op) for op in self.linears)]


def match(edges: Edges, op: Op, rows: int) -> NormLinear | None:
    """A norm that only matrices read. For one row, gate and up matrices have a family of their own."""
    if not isinstance(op, RmsNorm):
        return None
    readers = edges.readers(op.out)
    linears = tuple(reader for reader in readers if isinstance(reader, Linear))
    if not linears or len(linears) < len(readers):
        return None
    products = tuple(linear.out for linear in linears)
    return NormLinear(ops=(op, *linears), reads=((op.x,),), writes=(products,), norm=op, linears=linears)
