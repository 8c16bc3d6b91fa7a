"""fuse: cut the graph into groups of operations, each of which one kernel runs (or, in prefill, a few).

A family of kernels takes operations by who reads whose result. What its kernels find in memory and what they leave
there are its group's `reads` and `writes`. The walk follows what lies where: a value that is read after another has
taken its place, or that no kernel leaves in memory, is an error, and so is a property that no kernel has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imp_codegen.graph import (
    Add,
    Attention,
    Edges,
    Embed,
    Gated,
    Graph,
    HeadNorm,
    Linear,
    Op,
    RmsNorm,
    Rope,
    Sample,
    Value,
    inputs,
    label,
)
from imp_runtime.errors import ImpError

Places = Mapping[str, tuple[Value, ...]]


class FusionError(ImpError):
    """An operation that no kernel computes as the graph has it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Operations that one kernel family takes, in the family's own order. `name` is the last result's.

    `reads` and `writes`: by place what its kernels expect there and leave there, side by side. A place is a buffer of
    decode, and in prefill its counterpart for a chunk: x (the residual stream), qkv, attn, gated, logits.
    """

    family: str
    ops: tuple[Op, ...]
    reads: Places
    writes: Places

    @property
    def name(self) -> str:
        """Unique in a program."""
        return self.ops[-1].out.name


def fuse(graph: Graph) -> tuple[Group, ...]:
    """The groups, in order; FusionError names the operation that no family takes, or not as the graph has it."""
    edges = Edges(graph)
    groups: list[Group] = []
    memory: dict[str, tuple[Value, ...]] = {}
    done: set[Op] = set()
    for op in graph.ops:
        if op in done:
            continue
        group = next(filter(None, (match(edges, op) for match in _FAMILIES)), None)
        if group is None:
            readers = ", ".join(label(reader) for reader in edges.readers(op.out)) or "nothing"
            raise FusionError(f"{label(op)}: no kernel takes it, read by {readers}")
        for place, wanted in group.reads.items():
            if memory.get(place) != wanted:
                raise _misplaced(group, place, wanted, memory.get(place, ()))
        memory.update(group.writes)
        done.update(group.ops)
        groups.append(group)
    return tuple(groups)


def _misplaced(group: Group, place: str, wanted: tuple[Value, ...], found: tuple[Value, ...]) -> FusionError:
    missing = [value for value in wanted if value not in found] or wanted
    reader = next(op for op in reversed(group.ops) if missing[0] in inputs(op))
    names, others = (", ".join(value.name for value in values) or "nothing" for values in (wanted, found))
    return FusionError(f"{label(reader)}: its kernel reads {names} from {place!r}, which holds {others}")


def _embed(edges: Edges, op: Op) -> Group | None:
    return Group("embed", (op,), {}, {"x": (op.out,)}) if isinstance(op, Embed) else None


def _gate_up(edges: Edges, norm: Op) -> Group | None:
    if not isinstance(norm, RmsNorm):
        return None
    linears = edges.readers(norm.out)
    gated = edges.only_reader(linears[0].out) if linears else None
    if not isinstance(gated, Gated):
        return None
    gate, up = edges.maker(gated.gate), edges.maker(gated.up)
    if linears not in ((gate, up), (up, gate)) or not isinstance(gate, Linear) or not isinstance(up, Linear):
        return None
    _no_bias(gate, up)
    return Group("gate_up", (norm, gate, up, gated), {"x": (norm.x,)}, {"gated": (gated.out,)})


def _head(edges: Edges, norm: Op) -> Group | None:
    linear = edges.only_reader(norm.out)
    sample = edges.only_reader(linear.out) if linear else None
    if not isinstance(norm, RmsNorm) or not isinstance(linear, Linear) or not isinstance(sample, Sample):
        return None
    _no_bias(linear)
    return Group("head", (norm, linear, sample), {"x": (norm.x,)}, {"logits": (linear.out,)})


def _norm_linear(edges: Edges, norm: Op) -> Group | None:
    if not isinstance(norm, RmsNorm):
        return None
    readers = edges.readers(norm.out)
    linears = tuple(op for op in readers if isinstance(op, Linear))
    if not linears or len(linears) < len(readers):
        return None
    bare = next((op for op in linears if op.bias is None), None)
    if bare and any(op.bias for op in linears):
        raise FusionError(f"{label(bare)}: has no bias and others that read {norm.out.name} have, which is unsupported")
    return Group("norm_linear", (norm, *linears), {"x": (norm.x,)}, {"qkv": tuple(op.out for op in linears)})


def _attention(edges: Edges, op: Op) -> Group | None:
    last: Op | None = op
    while isinstance(last, HeadNorm | Rope):
        last = next(iter(edges.readers(last.out)), None)
    if not isinstance(last, Attention):
        return None
    ropes = tuple(rope for rope in map(edges.maker, (last.q, last.k)) if isinstance(rope, Rope))
    if len(ropes) < 2:
        raise FusionError(f"{label(last)}: q and k are not both rotated, which is unsupported")
    norms = tuple(norm for norm in (edges.maker(rope.x) for rope in ropes) if isinstance(norm, HeadNorm))
    if len(norms) == 1:
        bare = next(rope for rope in ropes if rope.x != norms[0].out)
        raise FusionError(f"{label(bare)}: of q and k only the other has a norm, which is unsupported")
    for rope in ropes:
        if rope.head_dim != last.head_dim or rope.rope.dim != last.head_dim:
            raise FusionError(
                f"{label(rope)}: turns {rope.rope.dim} elements of heads of {rope.head_dim}, supported are all "
                f"{last.head_dim} that {label(last)} has"
            )
        if rope.rope != ropes[0].rope:
            raise FusionError(f"{label(rope)}: turns otherwise than {label(ropes[0])}, which is unsupported")
    for norm in norms:
        if (norm.head_dim, norm.eps) != (last.head_dim, norms[0].eps):
            raise FusionError(
                f"{label(norm)}: its heads of {norm.head_dim} and eps of {norm.eps} are not those of "
                f"{label(norms[0])} and {label(last)}, which is unsupported"
            )
    q, k = (op.x for op in norms or ropes)
    # Prefill rotates q where it lies.
    return Group("attention", (*norms, *ropes, last), {"qkv": (q, k, last.v)}, {"attn": (last.out,), "qkv": ()})


def _linear_add(edges: Edges, linear: Op) -> Group | None:
    add = edges.only_reader(linear.out)
    if not isinstance(linear, Linear) or not isinstance(add, Add):
        return None
    place = _SOURCES.get(type(edges.maker(linear.x)))
    if place is None:
        return None
    residual = add.y if add.x == linear.out else add.x
    return Group("linear_add", (linear, add), {place: (linear.x,), "x": (residual,)}, {"x": (add.out,)})


def _no_bias(*linears: Linear) -> None:
    for op in linears:
        if op.bias:
            raise FusionError(f"{label(op)}: has the bias {op.bias.name}, which is unsupported there")


# Where the result of an operation lies.
_SOURCES: Mapping[type[Op], str] = {Attention: "attn", Gated: "gated"}
# Tried in this order at every operation.
_FAMILIES: tuple[Callable[[Edges, Op], Group | None], ...] = (
    _embed,
    _gate_up,
    _head,
    _norm_linear,
    _attention,
    _linear_add,
)
