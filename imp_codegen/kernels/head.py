"""Final norm and LM head."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.gemm import encode, gemm
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import stream
from imp_codegen.ops import Linear, RmsNorm, Sample

LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Match):
    """The end of every model: from the residual stream to logits, of which `sample` takes a token."""

    norm: RmsNorm
    linear: Linear
    sample: Sample

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: logits, and the best of each CTA. Several: all logits of every row."""
        if low.rows == 1:
            return (self._streamed(low),)
        encoded = encode(low, self.norm.out, (self.norm.x,), (self.linear.weight,), self.norm)
        return (encoded, gemm(low, self.linear))

    def _streamed(self, low: Lowering) -> KernelSpec:
        norm, linear = self.norm, self.linear
        grid, vocab = low.target.sms, linear.out.width
        streamed = stream(low, "head", norm.x.width, (linear.weight,), norm=norm)
        warps = streamed.warps
        store = Cpp("StoreLogits", (Config("LogitsConfig", (("warps", warps),)),))
        return KernelSpec(
            name="head",
            entry="head",
            headers=("stage/gemv", *low.headers(linear.weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(linear.weight))),
            call=(
                low.value("const float*", "x", norm.x),
                low.plane(norm.weight, "norm"),
                (
                    low.value("float*", "logits", linear.out),
                    Param("float*", "best_value", low.buffer("head.best_value", grid * 4)),
                    Param("std::uint32_t*", "best", low.buffer("head.best", grid * 4)),
                ),
                low.plane(linear.weight, "w"),
            ),
            grid=(grid, 1, 1),
            threads=warps * 32,
            shared_bytes=streamed.shared + round_up(warps * 8, 16),
            overlap=True,
            ops=(label(norm), label(linear)),
            outputs=low.output(linear.out),
            weight_bytes=low.weight_bytes(linear.weight),
            other_bytes=norm.x.width * 8 + vocab * 4,
            flops=2 * linear.weight.rows * linear.weight.cols,
        )

    def hidden(self, low: Lowering) -> KernelSpec:
        """The hidden state of every row after the norm."""
        norm, threads = self.norm, 256
        width = norm.x.width
        config = Config("NormChunkConfig", (("cols", width), ("threads", threads), ("eps", norm.eps)))
        return KernelSpec(
            name="hidden",
            entry="norm_chunk",
            headers=("stage/norm_chunk",),
            stage=Cpp("NormChunk", (config,)),
            call=(
                low.value("const float*", "x", norm.x),
                low.plane(norm.weight, "norm"),
                low.state("const std::int32_t*", "step.input"),
                low.value("float*", "y", norm.out),
            ),
            grid=(low.rows, 1, 1),
            threads=threads,
            shared_bytes=round_up(threads // 32 * 4, 16),
            ops=(label(norm),),
            outputs=low.output(norm.out),
            other_bytes=low.rows * width * 8,
        )


def match(edges: Edges, op: Op, rows: int) -> Head | None:
    """A norm, its one matrix, and sampling from its result."""
    if not isinstance(op, RmsNorm):
        return None
    linear = edges.only_reader(op.out)
    sample = edges.only_reader(linear.out) if linear else None
    if not isinstance(linear, Linear) or not isinstance(sample, Sample):
        return None
    if linear.bias:
        raise FusionError(f"{label(linear)}: has the bias {linear.bias.name}, which is unsupported there")
    one = rows == 1
    return Head(
        ops=(op, linear, sample),
        reads=((op.x,),),
        writes=((linear.out,),) if one else ((linear.out,), (op.out,)),
        named={linear.out: LOGITS} if one else {linear.out: f"{LOGITS}.all", op.out: "hidden.all"},
        norm=op,
        linear=linear,
        sample=sample,
    )
