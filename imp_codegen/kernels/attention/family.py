"""Which operations attention kernels take: from the products q, k and v to the attended values."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.attention import decode, prefill
from imp_codegen.kernels.attention.parts import Parts
from imp_codegen.kernels.family import FusionError, Match
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.ops import Attention, HeadNorm, Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAttention(Match):
    """Attention over the cache, with all that happens to q and k before."""

    parts: Parts

    def lower(self, low: Lowering) -> tuple[KernelSpec, ...]:
        """One row: one kernel. Several: two."""
        return decode.lower(low, self.parts) if low.rows == 1 else prefill.lower(low, self.parts)


def match(edges: Edges, op: Op, rows: int) -> CachedAttention | None:
    """An attention whose q and k are rotated alike, before that normed or not."""
    last: Op | None = op
    while isinstance(last, HeadNorm | Rope):
        last = next(iter(edges.readers(last.out)), None)
    if not isinstance(last, Attention):
        return None
    _plain(last)
    ropes = tuple(rope for rope in map(edges.maker, (last.q, last.k)) if isinstance(rope, Rope))
    if len(ropes) < 2:
        raise FusionError(f"{label(last)}: q and k are not both rotated, which is unsupported")
    norms = tuple(norm for norm in (edges.maker(rope.x) for rope in ropes) if isinstance(norm, HeadNorm))
    if len(norms) == 1:
        bare = next(rope for rope in ropes if rope.x != norms[0].out)
        raise FusionError(f"{label(bare)}: of q and k only the other has a norm, which is unsupported")
    _same_rotations(last, ropes)
    for norm in norms:
        if norm.weight is None:
            raise FusionError(f"{label(norm)}: has no weight, which is unsupported")
        if (norm.head_dim, norm.eps) != (last.head_dim, norms[0].eps):
            raise FusionError(
                f"{label(norm)}: its heads of {norm.head_dim} and eps of {norm.eps} are not those of "
                f"{label(norms[0])} and {label(last)}, which is unsupported"
            )
    parts = Parts(norms, ropes, last)
    return CachedAttention(ops=parts.ops, reads=((*parts.inputs, last.v),), writes=((last.out,),), parts=parts)


def _plain(op: Attention) -> None:
    if op.window:
        raise FusionError(f"{label(op)}: has a window of {op.window} positions, which is unsupported")
    if op.softcap:
        raise FusionError(f"{label(op)}: has a soft cap of {op.softcap}, which is unsupported")
    if op.head_dim % 16 or op.head_dim > 128:
        raise FusionError(
            f"{label(op)}: has heads of {op.head_dim} elements; supported are those of 16 to 128, a multiple of 16"
        )


def _same_rotations(op: Attention, ropes: tuple[Rope, ...]) -> None:
    for rope in ropes:
        if rope.head_dim != op.head_dim or rope.rope.dim != op.head_dim:
            raise FusionError(
                f"{label(rope)}: turns {rope.rope.dim} elements of heads of {rope.head_dim}, supported are all "
                f"{op.head_dim} that {label(op)} has"
            )
        if rope.rope.magnitude != 1:
            raise FusionError(f"{label(rope)}: has the magnitude {rope.rope.magnitude}, which is unsupported")
        if rope.rope != ropes[0].rope:
            raise FusionError(f"{label(rope)}: turns otherwise than {label(ropes[0])}, which is unsupported")
