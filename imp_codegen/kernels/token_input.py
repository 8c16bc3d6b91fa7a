"""What a token brings to every layer beside its embedding: a row of a second table and normed products."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, Value, Weight, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Add, Embed, HeadNorm

_WARPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInput(Match):
    """Row + share * norm(x), group by group."""

    embed: Embed
    norm: HeadNorm
    weight: Weight
    add: Add

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One kernel; a warp takes a group of a token."""
        table, out, rows = self.embed.weight, self.add.out, low.rows
        fields = (
            ("group", self.norm.head_dim),
            ("eps", self.norm.eps),
            ("scale", float(self.embed.scale)),
            ("share", float(self.add.scale)),
            ("one", rows == 1),
            ("warps", _WARPS),
        )
        kernel = KernelSpec(
            name=self.name,
            entry="token_input",
            headers=("stage/token_input", *low.headers(table)),
            stage=Cpp("TokenInput", (Config("TokenInputConfig", fields), low.matrix(table))),
            args={
                "table": low.plane(table),
                "norm": low.plane(self.weight),
                "x": low.value("const float*", self.norm.x),
                "step": low.step() if rows > 1 else None,
                "rows": low.step_rows(),
                "last": low.state("const std::int32_t*", "seq.token"),
                "out": low.value("float*", out),
            },
            grid=(-(-out.width // (self.norm.head_dim * _WARPS)), rows, 1),
            threads=_WARPS * 32,
            shared_bytes=0,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(out),
            other_bytes=rows * (low.weight_bytes(table) // table.rows + out.width * 8),
        )
        return (kernel,)


def match(edges: Edges, op: Op, rows: int) -> TokenInput | None:
    """An embedding that only a sum reads, with heads that are normed."""
    add = edges.only_reader(op.out) if isinstance(op, Embed) else None
    if not isinstance(op, Embed) or not isinstance(add, Add) or add.x != op.out:
        return None
    norm: Op = edges.maker(add.y)
    if not isinstance(norm, HeadNorm) or norm.weight is None or edges.only_reader(norm.out) is not add:
        return None
    read: Value = norm.x
    return TokenInput(
        ops=(op, norm, add), reads=((read,),), writes=((add.out,),), embed=op, norm=norm, weight=norm.weight, add=add
    )
