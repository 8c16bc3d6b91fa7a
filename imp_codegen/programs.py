"""Which programs a model has (plan.py's docstring), each a list of kernels, and in which form it decodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from imp_codegen.graph import Graph
from imp_codegen.kernels import export, sample
from imp_codegen.kernels.bandwidth import read_memory
from imp_codegen.kernels.family import Body, FusionError
from imp_codegen.kernels.finish_prefill import finish
from imp_codegen.kernels.form import Chosen, Wanted, choose
from imp_codegen.kernels.head import Head
from imp_codegen.kernels.kernel_spec import KernelSpec, ProgramSpec
from imp_codegen.kernels.last_token import take_last
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.sieve import sieved
from imp_codegen.kernels.step.kernel import step_kernel
from imp_codegen.kernels.step.model import step_model
from imp_codegen.passes.fuse import fuse
from imp_codegen.passes.plan_buffers import plan_buffers
from imp_runtime.plan import DECODE_SAMPLED


@dataclass(frozen=True, slots=True)
class Lowered:
    """Programs, what replaces those with resident kernels where there is no room for them, and the form of decode."""

    programs: tuple[ProgramSpec, ...]
    fallback: tuple[ProgramSpec, ...]
    chosen: Chosen


def body(low: Lowering, graph: Graph, rows: int) -> Body:
    """The graph as kernels of that many rows take it; `low` then knows the buffers between them."""
    matches = fuse(graph, rows)
    planned = plan_buffers(matches, rows)
    for name, nbytes in planned.nbytes.items():
        low.buffer(name, nbytes)
    return Body(replace(low, rows=rows, places=planned.places), matches)


def lower(low: Lowering, graph: Graph, chunk_tokens: int, wanted: Wanted = "graph") -> Lowered:
    """Every program; `low` then knows their buffers. FusionError for what no kernel computes."""
    one, chunk = body(low, graph, 1), body(low, graph, chunk_tokens)
    low, tokens = one.low, chunk_tokens
    head, chunk_head = head_of(one), head_of(chunk)
    first, *layers, _ = (match.lower(low) for match in one.matches)
    logits = head.lower(low)
    graph_form = (*first, *(kernel for kernels in layers for kernel in kernels), *logits)
    chosen = choose(one, graph_form, wanted)
    greedy = sample.greedy(low, head)
    sampled = {
        name: sample.sampled(low, head, score=score, weigh=weigh) for (score, weigh), name in DECODE_SAMPLED.items()
    }
    sampled["decode_sieve_b1"] = sieved(low, head)
    decode = _decode(graph_form, greedy, sampled)
    fallback: tuple[ProgramSpec, ...] = ()
    if chosen.form == "persistent":
        decode, fallback = _decode((*first, step_kernel(step_model(one))), greedy, sampled), decode
    prefill = [kernel for match in chunk.matches[:-1] for kernel in match.lower(chunk.low)]
    last = (*(take_last(chunk.low, low, value) for block in head.reads for value in block), *logits)
    from_prefill = sample.sampled(low, head, score=True, weigh=True, advance=False)
    programs = (
        *decode,
        ProgramSpec("choose_b1", 1, sampled[DECODE_SAMPLED[True, True]]),
        ProgramSpec("choose_sieve_b1", 1, sampled["decode_sieve_b1"]),
        ProgramSpec(f"prefill_t{tokens}", tokens, (*prefill, finish(chunk.low))),
        ProgramSpec("sample_b1", 1, (*last, *from_prefill)),
        ProgramSpec("sample_sieve_b1", 1, (*last, *sieved(low, head, advance=False))),
        ProgramSpec(f"logits_t{tokens}", tokens, chunk_head.lower(chunk.low)),
        ProgramSpec(f"hidden_t{tokens}", tokens, (chunk_head.hidden(chunk.low),)),
        ProgramSpec("export_b1", 1, export.export(low, head)),
        ProgramSpec("top_b1", 1, export.top(low, head)),
        ProgramSpec("bandwidth", 1, (read_memory(low),)),
    )
    return Lowered(programs, fallback, chosen)


def head_of(taken: Body) -> Head:
    """The end of a model; FusionError where it has another."""
    last = taken.matches[-1]
    if not isinstance(last, Head):
        raise FusionError(f"{last.name}: the model does not end with a norm, a matrix and sampling")
    return last


def _decode(
    forward: tuple[KernelSpec, ...], greedy: tuple[KernelSpec, ...], sampled: Mapping[str, tuple[KernelSpec, ...]]
) -> tuple[ProgramSpec, ...]:
    """The programs in which a step's two forms differ."""
    return (
        ProgramSpec("decode_b1", 1, (*forward, *greedy)),
        *(ProgramSpec(name, 1, (*forward, *end)) for name, end in sampled.items()),
        ProgramSpec("forward_b1", 1, forward),
    )
