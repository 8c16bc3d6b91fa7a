"""fuse: cut the graph into groups of operations, each of which the kernels of one family take.

Families say what they take by who reads whose result (kernels/family.py); of several that offer, the one that takes
most operations does. What a family says that its kernels read and leave in memory is compared with the graph: nothing
else may enter a group, or leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imp_codegen.graph import Edges, Graph, Op, Pairs, Value, inputs, label
from imp_codegen.kernels import families
from imp_codegen.kernels.family import FusionError, Match


def fuse(graph: Graph, rows: int, pairs: Pairs | None = None) -> tuple[Match, ...]:
    """The groups for programs of `rows` tokens, in order; FusionError names the operation that no family takes.

    `pairs`: that of `Edges`.
    """
    edges = Edges(graph, pairs) if pairs else Edges(graph)
    matches: list[Match] = []
    done: set[Op] = set()
    nearly: dict[Op, list[FusionError]] = {}
    for op in graph.ops:
        if op in done:
            continue
        match, errors = _best(edges, op, rows, nearly)
        _check(edges, match, done)
        matches.append(match)
        done.update(match.ops)
        nearly |= dict.fromkeys(match.ops, errors)
    return tuple(matches)


def _best(edges: Edges, op: Op, rows: int, nearly: Mapping[Op, list[FusionError]]) -> tuple[Match, list[FusionError]]:
    """The match with most operations, and the errors of families that nearly matched.

    Where there is no match, such an error is raised: of `op`, or of the group that makes what it reads.
    """
    found: list[Match] = []
    errors: list[FusionError] = []
    for family in families():
        try:
            match = family.match(edges, op, rows)
        except FusionError as error:
            errors.append(error)
        else:
            found += [match] if match else []
    if found:
        return max(found, key=lambda match: len(match.ops)), errors
    errors += [error for value in inputs(op) for error in nearly[edges.maker(value)]]
    if errors:
        raise errors[0]
    reads = ", ".join(value.name for value in inputs(op)) or "nothing"
    readers = ", ".join(label(reader) for reader in edges.readers(op.out)) or "nothing"
    raise FusionError(f"{label(op)}: no kernel takes it; it reads {reads} and is read by {readers}")


def _check(edges: Edges, match: Match, done: set[Op]) -> None:
    own = set(match.ops)
    for op in match.ops:
        if op in done:
            raise FusionError(f"{label(op)}: the kernels of {match.name} would compute it a second time")
        if others := _missing((v for v in inputs(op) if edges.maker(v) not in own), match.reads):
            raise FusionError(f"{label(op)}: its kernel does not read {others[0].name} from memory")
        readers = [reader for reader in edges.readers(op.out) if reader not in own]
        if readers and _missing((op.out,), match.writes):
            raise FusionError(f"{label(readers[0])}: reads {op.out.name}, which its kernel leaves nowhere in memory")


def _missing(values: Iterable[Value], blocks: tuple[tuple[Value, ...], ...]) -> list[Value]:
    held = {value for block in blocks for value in block}
    return [value for value in values if value not in held]
