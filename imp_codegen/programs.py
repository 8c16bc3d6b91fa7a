"""Which programs a model has (plan.py's docstring), each a list of kernels, and in which form it runs a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from imp_codegen.cards import Card
from imp_codegen.graph import Graph
from imp_codegen.kernels import export, sample
from imp_codegen.kernels.advance import advance
from imp_codegen.kernels.attention.decode import handed_over
from imp_codegen.kernels.bandwidth import read_memory
from imp_codegen.kernels.family import Body, FusionError
from imp_codegen.kernels.form import Chosen, Wanted, choose
from imp_codegen.kernels.gather_rows import gather_rows
from imp_codegen.kernels.gemm import fits
from imp_codegen.kernels.gemm_wgmma import pairs
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import KernelSpec, ProgramSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.sieve import sieved
from imp_codegen.kernels.step.kernel import step_kernel
from imp_codegen.kernels.step.model import step_model
from imp_codegen.kernels.take_row import take_row
from imp_codegen.ops import Linear, Route
from imp_codegen.passes.fuse import fuse
from imp_codegen.passes.plan_buffers import plan_buffers
from imp_codegen.predict import predict_us
from imp_runtime.plan import STEP_SAMPLED

_LEAST_WORTH = 2
_LOGITS_ROWS = 128  # all logits of more would take more memory than they are worth: 4 bytes each


@dataclass(frozen=True, slots=True)
class Lowered:
    """Programs, what replaces those with resident kernels where there is no room for them, and the form of a step."""

    programs: tuple[ProgramSpec, ...]
    fallback: tuple[ProgramSpec, ...]
    chosen: Chosen


def body(low: Lowering, graph: Graph, rows: int, *, batch: bool = False) -> Body:
    """The graph as kernels of that many rows take it; `low` then knows the buffers between them.

    `batch`: the rows are those of a step of as many sequences.
    """
    several = replace(low, rows=rows, batch=batch)
    matches = fuse(graph, rows, partial(pairs, several))
    planned = plan_buffers(matches, rows)
    left_out = set() if _ended(low, rows) else {planned.places[value].buffer for value in matches[-1].named}
    for name, nbytes in planned.nbytes.items():
        if name not in left_out:
            low.buffer(name, nbytes)
    return Body(replace(several, places=planned.places), matches)


def lower(low: Lowering, graph: Graph, wanted: Wanted = "graph") -> Lowered:
    """Every program, of one row and of the target's chunks and batches; `low` then knows their buffers.

    All logits and hidden states are had of few rows only: of more they would take much memory.
    FusionError for what no kernel computes.
    """
    one, *chunks = (body(low, graph, rows) for rows in (1, *low.target.chunks))
    many = chunks[0]
    routers = {op.logits for op in graph.ops if isinstance(op, Route)}  # which have kernels of their own
    weights = tuple(op.weight for op in graph.ops if isinstance(op, Linear) and op.out not in routers)
    batches = [body(low, graph, rows, batch=True) for rows in low.target.batches]
    low, head = one.low, head_of(one)
    first, *layers, _ = (match.lower(low) for match in one.matches)
    logits = head.lower(low)
    graph_form = (*first, *(kernel for kernels in layers for kernel in kernels), *logits)
    chosen = choose(one, graph_form, wanted)
    greedy = sample.greedy(low, head)
    sampled = {
        name: sample.sampled(low, head, score=score, weigh=weigh) for (score, weigh), name in STEP_SAMPLED.items()
    }
    sampled["step_sieve_r1"] = sieved(low, head)
    steps = _steps(graph_form, greedy, sampled)
    fallback: tuple[ProgramSpec, ...] = ()
    if chosen.form == "persistent":
        model = step_model(one)
        before = (*first, *(kernel for match in model.before for kernel in match.lower(low)))
        steps, fallback = _steps((*before, step_kernel(model)), greedy, sampled), steps
    worth = partial(_worth, low.target.card, steps[0].kernels)
    taken = [take_row(many.low, low, value) for block in head.reads for value in block]
    programs = (
        *steps,
        *(program for chunk in chunks for program in _several(chunk)),
        *(program for batch in batches if fits(batch.low, weights) for program in _together(batch, worth)),
        ProgramSpec("head_r1", 1, (*taken, *logits)),
        ProgramSpec("sample_r1", 1, sampled[STEP_SAMPLED[True, True]]),
        ProgramSpec("sieve_r1", 1, sampled["step_sieve_r1"]),
        ProgramSpec("export_r1", 1, export.export(low, head)),
        ProgramSpec("top_r1", 1, export.top(low, head)),
        ProgramSpec("bandwidth", 1, (read_memory(low),)),
    )
    return Lowered(programs, fallback, chosen)


def _several(chunk: Body) -> Iterator[ProgramSpec]:
    """Rows through the model, up to the hidden states before the head, which head_r* finds whatever the chunk was."""
    low, head, rows = chunk.low, head_of(chunk), chunk.low.rows
    forward = [kernel for match in chunk.matches[:-1] for kernel in match.lower(low)]
    first_us, last_us = _chunk_us(low, forward)
    yield ProgramSpec(f"forward_r{rows}", rows, (*forward, advance(low)), first_us=first_us, last_us=last_us)
    if _ended(low, rows):
        yield ProgramSpec(f"logits_r{rows}", rows, head.lower(low))
        yield ProgramSpec(f"hidden_r{rows}", rows, (head.hidden(low),))


def _together(batch: Body, worth: Callable[[Sequence[KernelSpec], int], int]) -> Iterator[ProgramSpec]:
    """A row of each of several sequences through the model, logits of all included, where that is worth it.

    And the ends of as many, of prompts, too, whose last rows the head then takes.
    """
    low, ends, head, rows = batch.low, batch.low.ended(), head_of(batch), batch.low.rows
    forward = [*handed_over([kernel for match in batch.matches[:-1] for kernel in match.lower(low)])]
    logits, chosen = head.lower(low), sample.sampled(ends, head, score=True, weigh=True)
    gathered = (gather_rows(ends, value) for block in head.reads for value in block)
    if sequences := worth((*forward, *logits, *chosen), rows):
        yield ProgramSpec(f"batch_r{rows}", rows, (*forward, advance(low), *logits), sequences)
        yield ProgramSpec(f"head_r{rows}", rows, (*gathered, *head.lower(ends)))
        yield ProgramSpec(f"sample_r{rows}", rows, chosen)
        yield ProgramSpec(f"sieve_r{rows}", rows, sieved(ends, head))
        yield ProgramSpec(f"export_r{rows}", rows, export.export(ends, head))
        yield ProgramSpec(f"top_r{rows}", rows, export.top(ends, head))


def _ended(low: Lowering, rows: int) -> bool:
    """Whether there are all logits and hidden states of programs of so many rows."""
    return rows <= max(_LOGITS_ROWS, low.target.chunks[0])


def _chunk_us(low: Lowering, forward: Sequence[KernelSpec]) -> tuple[float, float]:
    """Predicted microseconds of a sequence's first rows, and of those at the end of the context; whole ones."""
    if low.target.card.speed is None:
        return 0, 0
    first, last = (predict_us(low.target.card, forward, positions) for positions in (low.rows, low.context))
    return float(round(first)), float(round(max(first, last)))


def _worth(card: Card, alone: Sequence[KernelSpec], together: Sequence[KernelSpec], rows: int) -> int:
    """How many sequences take a step faster `together` than each `alone`, ends included, as it is predicted."""
    if card.speed is None:
        return _LEAST_WORTH
    one, all_rows = predict_us(card, alone), predict_us(card, together)
    return next((n for n in range(_LEAST_WORTH, rows + 1) if all_rows < n * one), 0)


def head_of(taken: Body) -> Head:
    """The end of a model; FusionError where it has another."""
    last = taken.matches[-1]
    if not isinstance(last, Head):
        raise FusionError(f"{last.name}: the model does not end with a norm, a matrix and sampling")
    return last


def _steps(
    forward: tuple[KernelSpec, ...], greedy: tuple[KernelSpec, ...], sampled: Mapping[str, tuple[KernelSpec, ...]]
) -> tuple[ProgramSpec, ...]:
    """The programs in which a step's two forms differ."""
    return (
        ProgramSpec("step_r1", 1, (*forward, *greedy)),
        *(ProgramSpec(name, 1, (*forward, *end)) for name, end in sampled.items()),
        ProgramSpec("forward_r1", 1, forward),
    )
