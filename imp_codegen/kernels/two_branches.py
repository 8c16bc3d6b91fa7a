"""What two branches make, each normed, added and normed together, added to the residual stream: one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.family import Match
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import norm_weight
from imp_codegen.ops import Add, RmsNorm, ScaleBy

_MOST_WARPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoBranches(Match):
    """X = (X + norm(norm(first) + norm(second))) * scale."""

    first: RmsNorm
    second: RmsNorm
    norm: RmsNorm
    add: Add
    scale: ScaleBy | None

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """A CTA for each row."""
        out, cols = self.ops[-1].out, self.add.out.width
        warps = min(_MOST_WARPS, -(-cols // 128))
        config = Config(
            "TwoBranchesConfig",
            (
                ("cols", cols),
                ("warps", warps),
                ("first_eps", self.first.eps),
                ("second_eps", self.second.eps),
                ("eps", self.norm.eps),
                ("scaled", self.scale is not None),
                ("one", not low.several),
            ),
        )
        kernel = KernelSpec(
            name=self.name,
            entry="two_branches",
            headers=("stage/two_branches",),
            stage=Cpp("TwoBranches", (config,)),
            args={
                "stream": low.value("float*", out),
                "first": low.value("const float*", self.first.x),
                "second": low.value("const float*", self.second.x),
                "first_norm": norm_weight(low, self.first),
                "second_norm": norm_weight(low, self.second),
                "norm": norm_weight(low, self.norm),
                "scale": low.plane(self.scale.weight) if self.scale else None,
                "step": low.step() if low.several else None,
            },
            grid=(low.rows, 1, 1),
            threads=warps * 32,
            shared_bytes=3 * warps * 4,
            overlap=True,
            ops=tuple(map(label, self.ops)),
            outputs=low.output(out),
            other_bytes=low.rows * cols * 16 + cols * 12,
        )
        return (kernel,)


def match(edges: Edges, op: Op, rows: int) -> TwoBranches | None:
    """Two norms whose sum is normed, and that added to another value; each has a weight, and nobody else reads any."""
    both = edges.only_reader(op.out)
    if not isinstance(op, RmsNorm) or not isinstance(both, Add) or both.x == both.y or both.scale != 1:
        return None
    first, second = edges.maker(both.x), edges.maker(both.y)
    norm = edges.only_reader(both.out)
    if not isinstance(first, RmsNorm) or not isinstance(second, RmsNorm) or not isinstance(norm, RmsNorm):
        return None
    add = edges.only_reader(norm.out)
    if not isinstance(add, Add) or add.x == add.y or add.scale != 1:
        return None
    if edges.only_reader(second.out) is not both or edges.only_reader(first.out) is not both:
        return None
    if any(each.weight is None for each in (first, second, norm)):
        return None
    stream = add.x if add.y == norm.out else add.y
    scale = edges.only_reader(add.out)
    scale = scale if isinstance(scale, ScaleBy) else None
    ops = (first, second, both, norm, add, *((scale,) if scale else ()))
    return TwoBranches(
        ops=ops,
        reads=tuple(dict.fromkeys(((first.x,), (second.x,), (stream,)))),
        writes=((ops[-1].out,),),
        over={ops[-1].out: stream},
        first=first,
        second=second,
        norm=norm,
        add=add,
        scale=scale,
    )
