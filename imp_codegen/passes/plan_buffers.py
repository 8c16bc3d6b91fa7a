"""plan_buffers: give every value that lives between kernels its memory, and use it again once all have read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imp_codegen.graph import Op, Value, inputs, label
from imp_codegen.kernels.family import Block, FusionError, Match
from imp_codegen.kernels.lowering import Place


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """Where values lie, and the bytes of the buffers."""

    places: Mapping[Value, Place]
    nbytes: Mapping[str, int]


def plan_buffers(matches: Sequence[Match], rows: int) -> BufferPlan:
    """Buffers of programs of `rows` tokens: float32[rows, the width of a block], two blocks in one only in turns.

    Programs of several rows share them, and find values at the same places.

    What the last group reads and writes stays: programs that follow use it. FusionError where a kernel reads together
    what lies apart, or writes over what others still need.
    """
    last_read = {value: at for at, match in enumerate(matches) for block in match.reads for value in block}
    for block in (block for match in matches[-1:] for block in (*match.reads, *match.writes)):
        last_read |= dict.fromkeys(block, len(matches))
    buffers: dict[Block, str] = {}
    widths: dict[str, int] = {}
    free: list[str] = []
    for at, match in enumerate(matches):
        for block in match.reads:
            if block not in buffers:
                raise _apart(match, block, buffers)
        for block in match.writes:
            width = sum(value.width for value in block)
            over = match.over.get(block[0])
            if block[0] in match.named:
                name = match.named[block[0]]
            elif over is not None:
                if last_read[over] > at:
                    raise _over(match, block[0], over, matches[at + 1 :])
                name = buffers[over,]
            elif free:
                name = min(free, key=lambda each: (abs(widths[each] - width), each))
                free.remove(name)
            else:
                name = f"{'row' if rows == 1 else 'rows'}.{len(set(buffers.values()) - _names(matches[: at + 1]))}"
            buffers[block] = name
            widths[name] = max(widths.get(name, 0), width)
        kept = {buffers[b] for b in buffers if any(last_read.get(value, at) > at for value in b)}
        gone = set(buffers.values()) - kept - _names(matches)
        free = sorted(gone)
    places = {
        value: Place(name, sum(v.width for v in block[:i]), sum(v.width for v in block))
        for block, name in buffers.items()
        for i, value in enumerate(block)
    }
    return BufferPlan(places, {name: rows * width * 4 for name, width in widths.items()})


def _names(matches: Sequence[Match]) -> set[str]:
    return {name for match in matches for name in match.named.values()}


def _apart(match: Match, block: Block, buffers: Mapping[Block, str]) -> FusionError:
    """Why a block is not to be had as it is read."""
    op = _reader(match, block)
    names = ", ".join(value.name for value in block)
    around = [", ".join(v.name for v in other) for other in buffers if set(other) & set(block)]
    lies = f"; in memory there is {' and '.join(around)}" if around else ", which no kernel before it has made"
    return FusionError(f"{label(op)}: its kernel reads {names}{lies}")


def _over(match: Match, value: Value, over: Value, later: Sequence[Match]) -> FusionError:
    op = next(op for op in match.ops if op.out == value)
    reader = next(_reader(other, (over,)) for other in later if any(over in block for block in other.reads))
    return FusionError(f"{label(op)}: its kernel writes over {over.name}, which {label(reader)} still reads")


def _reader(match: Match, block: Block) -> Op:
    return next(op for op in match.ops if set(inputs(op)) & set(block))
