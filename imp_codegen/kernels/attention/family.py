"""Which operations attention kernels take: from the products q, k and v to the attended values."""

from __future__ import annotations

from dataclasses import dataclass

from imp_codegen.graph import Edges, Op, label
from imp_codegen.kernels.attention import decode, latent, prefill
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
        """Of a prompt's rows all are appended before any is attended to."""
        if low.rows > 1 and not low.batch:
            return prefill.lower(low, self.parts)
        return latent.steps(low, self.parts) if self.parts.op.latent else decode.lower(low, self.parts)


def match(edges: Edges, op: Op, rows: int) -> CachedAttention | None:
    """An attention whose q and k are normed and rotated alike or not at all, and whose v is normed or not.

    v may be made of what k is made of, and k and v may be missing.
    """
    last: Op | None = op
    while isinstance(last, HeadNorm | Rope):
        last = next(iter(edges.readers(last.out)), None)
    if not isinstance(last, Attention):
        return None
    if last.head_dim % 16 or last.value_dim % 16 or last.value_dim > 512 or last.head_dim - last.value_dim > 128:
        of_values = f" and values of {last.value_dim}" if last.latent else ""
        raise FusionError(
            f"{label(last)}: has heads of {last.head_dim} elements{of_values}; supported are those of 16 to 512, a "
            "multiple of 16, and where values are a part of keys, keys of up to 128 more"
        )
    if last.latent and (last.kv_heads > 1 or last.window or last.softcap or last.sinks or not last.k):
        raise FusionError(
            f"{label(last)}: values are a part of its keys; supported then is one key of all heads, of its own, "
            "without window, cap of scores and sinks"
        )
    makers = tuple(edges.maker(value) for value in (last.q, last.k) if value)
    ropes = tuple(maker for maker in makers if isinstance(maker, Rope))
    _both(last, "rotation", makers, ropes)
    makers = tuple(edges.maker(rope.x) for rope in ropes) or makers
    norms = tuple(maker for maker in makers if isinstance(maker, HeadNorm))
    _both(last, "norm", makers, norms)
    value = edges.maker(last.v) if last.v else None
    value_norms = (value,) if isinstance(value, HeadNorm) else ()
    _same_rotations(last, ropes)
    _same_norms(last, norms, value_norms)
    if last.latent and norms:
        raise FusionError(
            f"{label(norms[0])}: values are a part of the keys of {label(last)}, which then takes no norm"
        )
    parts = Parts(norms, value_norms, ropes, last)
    if op not in parts.ops:
        return None
    return CachedAttention(ops=parts.ops, reads=(parts.inputs,), writes=((last.out,),), parts=parts)


def _both(op: Attention, what: str, makers: tuple[Op, ...], found: tuple[Op, ...]) -> None:
    """Refuses what only one of q and k has."""
    if 0 < len(found) < len(makers):
        bare = next(maker for maker in makers if maker is not found[0])
        raise FusionError(f"{label(bare)}: of q and k of {label(op)} only the other has a {what}, which is unsupported")


def _same_rotations(op: Attention, ropes: tuple[Rope, ...]) -> None:
    for rope in ropes:
        step = 2 if rope.rope.interleaved else 4  # halves of pairs are stored two at a time
        if rope.head_dim != op.head_dim or rope.rope.dim % step or not rope.rope.dim:
            raise FusionError(
                f"{label(rope)}: turns {rope.rope.dim} elements of heads of {rope.head_dim}; supported is a multiple "
                f"of {step}, of the heads of {op.head_dim} that {label(op)} has"
            )
        if rope.rope != ropes[0].rope:
            raise FusionError(f"{label(rope)}: turns otherwise than {label(ropes[0])}, which is unsupported")


def _same_norms(op: Attention, norms: tuple[HeadNorm, ...], value_norms: tuple[HeadNorm, ...]) -> None:
    for norm in norms:
        if norm.weight is None:
            raise FusionError(f"{label(norm)}: has no weight, which is unsupported")
    for norm in value_norms:
        if norm.weight is not None:
            raise FusionError(f"{label(norm)}: has the weight {norm.weight.name}, which is unsupported for values")
    every = (*norms, *value_norms)
    whole = bool(norms) and all(norm.head_dim == norm.x.width for norm in norms)
    for norm in every:
        size = norm.x.width if whole and norm in norms else op.head_dim
        if (norm.head_dim, norm.eps) != (size, every[0].eps):
            raise FusionError(
                f"{label(norm)}: its heads of {norm.head_dim} and eps of {norm.eps} are not those of "
                f"{label(every[0])} and {label(op)}, which is unsupported"
            )
