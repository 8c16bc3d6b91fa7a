"""Final norm and LM head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imp_codegen.graph import Edges, Op, Value, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.gemm import products
from imp_codegen.kernels.kernel_spec import Arguments, Config, Cpp, KernelSpec, Param
from imp_codegen.kernels.lowering import Lowering, round_up
from imp_codegen.kernels.stream import bias_mask, biases, norm_fields, stream
from imp_codegen.kernels.vector import Vector, vector_from
from imp_codegen.ops import Linear, Sample, Scale, Softcap

LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Match):
    """The end of every model: from the residual stream to logits, of which `sample` takes a token."""

    vector: Vector
    linear: Linear
    scale: Scale | None
    cap: Softcap | None
    sample: Sample

    @property
    def logits(self) -> Value:
        """What is sampled from."""
        return self.sample.logits

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: logits, and the best of each CTA. Several: all logits of every row."""
        if low.rows == 1:
            return (self._streamed(low),)
        exact = replace(low, prefill="f16")  # as those of one row are, with which a text may go on
        return products(exact, self.vector, (self.linear,), out=self.logits, scale=self._factor, cap=self._cap)

    @property
    def _factor(self) -> float:
        return float(self.scale.factor if self.scale else 1)

    @property
    def _cap(self) -> float:
        return float(self.cap.cap if self.cap else 0)

    def config(self, warps: int) -> Config:
        """How logits are stored by a kernel of so many warps."""
        fields = (("warps", warps), ("biased", bias_mask((self.linear,))), ("scale", self._factor), ("cap", self._cap))
        return Config("LogitsConfig", fields)

    def stored(self, low: Lowering) -> Arguments:
        """Where logits are stored, and the best of each CTA (StoreLogits of stage/epilogue.h)."""
        return {
            "logits": low.value("float*", self.logits),
            "best_value": Param("float*", low.buffer("head.best_value", low.target.sms * 4)),
            "best": Param("std::uint32_t*", low.buffer("head.best", low.target.sms * 4)),
            "bias": biases(low, (self.linear,)),
        }

    def _streamed(self, low: Lowering) -> KernelSpec:
        linear, logits, cols = self.linear, self.logits, self.vector.value.width
        grid = low.target.sms
        streamed = stream(low, "head", self.vector, (linear.weight,))
        warps = streamed.warps
        store = Cpp("StoreLogits", (self.config(warps),))
        return KernelSpec(
            name="head",
            entry="head",
            headers=("stage/gemv", *low.headers(linear.weight)),
            stage=Cpp("Gemv", (streamed.gemv, streamed.encode, store, low.matrix(linear.weight))),
            args={
                **self.vector.args(low),
                "out": self.stored(low),
                "plane": (low.plane(linear.weight),),
            },
            grid=(grid, 1, 1),
            threads=warps * 32,
            shared_bytes=streamed.shared + round_up(warps * 8, 16),
            overlap=True,
            ops=tuple(map(label, self.ops[:-1])),
            outputs=low.output(logits),
            weight_bytes=low.weight_bytes(linear.weight),
            other_bytes=cols * 4 * (1 + len(self.vector.reads)) + logits.width * 4,
            flops=2 * linear.weight.rows * linear.weight.cols,
        )

    def hidden(self, low: Lowering) -> KernelSpec:
        """The hidden state of every row after the norm."""
        threads, width, hidden = 256, self.vector.value.width, self.vector.value
        config = Config("NormChunkConfig", (("cols", width), ("threads", threads), *norm_fields(self.vector)[1:]))
        return KernelSpec(
            name="hidden",
            entry="norm_chunk",
            headers=("stage/norm_chunk",),
            stage=Cpp("NormChunk", (config,)),
            args={
                **self.vector.args(low),
                "step": low.step(),
                "y": low.value("float*", hidden),
            },
            grid=(low.rows, 1, 1),
            threads=threads,
            shared_bytes=round_up(threads // 32 * 4, 16) * (2 if self.vector.sum else 1),
            ops=tuple(map(label, self.vector.ops)),
            outputs=low.output(hidden),
            other_bytes=low.rows * width * 8,
        )


def match(edges: Edges, op: Op, rows: int) -> Head | None:
    """A norm, its one matrix, what becomes of its result, and sampling from that."""
    vector = vector_from(edges, op, rows)
    linear = edges.only_reader(vector.value) if vector and vector.norm else None
    if vector is None or not isinstance(linear, Linear):
        return None
    last: Op | None = edges.only_reader(linear.out)
    scale = last if isinstance(last, Scale) else None
    last = edges.only_reader(scale.out) if scale else last
    cap = last if isinstance(last, Softcap) else None
    sample = edges.only_reader(cap.out) if cap else last
    if not isinstance(sample, Sample):
        return None
    logits, hidden, one = sample.logits, vector.value, rows == 1
    return Head(
        ops=(*vector.ops, linear, *(made for made in (scale, cap) if made), sample),
        reads=vector.reads,
        writes=((logits,), *vector.writes) if one else ((logits,), (hidden,), *vector.writes),
        over=vector.over(rows),
        named={logits: LOGITS} if one else {logits: f"{LOGITS}.all", hidden: "hidden.all"},
        vector=vector,
        linear=linear,
        scale=scale,
        cap=cap,
        sample=sample,
    )
