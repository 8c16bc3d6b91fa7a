"""Queries and the key of latent attention, from the products of a token: absorbed, joined, the latent normed."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, Value, label
from imp_codegen.kernels.family import Block, FusionError, Match
from imp_codegen.kernels.head_linear import head_product
from imp_codegen.kernels.kernel_spec import Config, Cpp, KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.vector import norm_weight
from imp_codegen.ops import Attention, HeadLinear, Join, Linear, RmsNorm, Rope
from imp_runtime.plan import Binding

_THREADS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentRow(Match):
    """Of every head [what turns, absorbed], and one key [what turns, normed latent]."""

    absorbed: HeadLinear
    q: Join
    norm: RmsNorm
    k: Join

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """The heads' products where they belong, then all else."""
        q, k, place = self.q, self.k, low.places[self.q.out]
        head, turned = q.out.width // q.heads, k.first.width
        to = Binding(place.buffer, (place.column + turned) * 4)
        fields = (
            ("heads", q.heads),
            ("turned", turned),
            ("latent", k.second.width),
            ("threads", _THREADS),
            ("q_stride", low.places[q.first].stride),
            ("kv_stride", low.places[k.first].stride),
            ("out_stride", place.stride),
            ("eps", self.norm.eps),
        )
        rest = KernelSpec(
            name=self.name,
            entry="latent_row",
            headers=("stage/latent_row",),
            stage=Cpp("LatentRow", (Config("LatentRowConfig", fields),)),
            args={
                "turned": low.value("const float*", q.first),
                "key": low.value("const float*", k.first),
                "latent": low.value("const float*", self.norm.x),
                "norm": norm_weight(low, self.norm),
                "step": low.step() if low.rows > 1 else None,
                "q": low.value("float*", q.out),
                "k": low.value("float*", k.out),
            },
            grid=(low.rows, 1, 1),
            threads=_THREADS,
            shared_bytes=_THREADS // 32 * 4,
            overlap=True,
            ops=tuple(map(label, self.ops[1:])),
            outputs=(*low.output(q.out), *low.output(k.out)),
            other_bytes=2 * low.rows * (q.first.width + k.out.width) * 4,
        )
        return head_product(low, self.absorbed, to, place.stride, head), rest


def match(edges: Edges, op: Op, rows: int) -> LatentRow | None:
    """The heads' products that become a part of latent attention's queries, and how its key is made."""
    if isinstance(op, Join):
        raise FusionError(_left(edges, op))
    q = edges.only_reader(op.out) if isinstance(op, HeadLinear) else None
    turn = edges.only_reader(q.out) if isinstance(q, Join) and q.second == op.out else None
    attention = edges.only_reader(turn.out) if isinstance(turn, Rope) else None
    if not isinstance(op, HeadLinear) or not isinstance(q, Join) or not isinstance(attention, Attention):
        return None
    turned_key = edges.maker(attention.k) if attention.k else None
    k = edges.maker(turned_key.x) if isinstance(turned_key, Rope) else None
    norm = edges.maker(k.second) if isinstance(k, Join) else None
    if not isinstance(k, Join) or not isinstance(norm, RmsNorm) or norm.weight is None:
        return None
    alike = q.heads == op.heads and k.heads == 1 and q.out.width == q.heads * k.out.width
    if not alike or q.first.width != q.heads * k.first.width:
        return None
    blocks = dict.fromkeys((_beside(edges, op.x), _beside(edges, norm.x)))
    return LatentRow(
        ops=(op, q, norm, k), reads=tuple(blocks), writes=((q.out, k.out),), absorbed=op, q=q, norm=norm, k=k
    )


def _left(edges: Edges, op: Join) -> str:
    """What to say of heads that no latent attention takes: all that should have been one."""
    turn = edges.only_reader(op.out)
    attention = edges.only_reader(turn.out) if turn else None
    near = [turn, attention, edges.maker(op.first), edges.maker(op.second)]
    if isinstance(attention, Attention) and attention.k:
        key = edges.maker(attention.k)
        join = edges.maker(key.x) if isinstance(key, Rope) else None
        near += [key, join, edges.maker(join.second) if isinstance(join, Join) else None]
    names = ", ".join(label(each) for each in near if each)
    return f"{label(op)}: no kernel takes it with {names}; supported are absorbed queries, and a key of a normed latent"


def _beside(edges: Edges, value: Value) -> Block:
    """The products that lie beside one of them: those of the same vector."""
    made = edges.maker(value)
    if not isinstance(made, Linear):
        return (value,)
    return tuple(op.out for op in edges.readers(made.x) if isinstance(op, Linear))
