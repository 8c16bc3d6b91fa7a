"""Embeddings of the tokens to run."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Embed

_THREADS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Match):
    """The rows of the tokens that a program runs."""

    op: Embed

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row is shared by a few CTAs, of several each CTA takes one."""
        weight, width, rows = self.op.weight, self.op.out.width, low.rows
        one = rows == 1
        kernel = KernelSpec(
            name=self.name,
            entry="embed",
            headers=("stage/embed", *low.headers(weight)),
            stage=Cpp(
                "EmbedRow" if one else "EmbedRows",
                (Config("EmbedConfig", (("threads", _THREADS), ("scale", float(self.op.scale)))), low.matrix(weight)),
            ),
            args={
                "plane": low.plane(weight),
                "step": None if one else low.step(),
                "rows": low.step_rows(),
                "last": low.state("const std::int32_t*", "seq.token"),
                "x": low.value("float*", self.op.out),
            },
            grid=(-(-width // _THREADS) if one else rows, 1, 1),
            threads=_THREADS,
            shared_bytes=0,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(self.op.out),
            other_bytes=rows * (low.weight_bytes(weight) // weight.rows + width * 4),
        )
        return (kernel,)


def match(edges: Edges, op: Op, rows: int) -> Embedding | None:
    """Any embedding."""
    if not isinstance(op, Embed):
        return None
    return Embedding(ops=(op,), reads=(), writes=((op.out,),), op=op)
