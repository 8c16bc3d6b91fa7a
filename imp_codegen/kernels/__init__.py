"""Kernel families: one file each, groups of operations in, drafted kernels out. This module composes the programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imp_codegen.kernels import attention, embed, export, gate_up, head, linear_add, norm_linear, sample, step
from imp_codegen.kernels.bandwidth import read_memory
from imp_codegen.kernels.draft import Draft, ProgramDraft
from imp_codegen.kernels.form import Chosen, Wanted, choose
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.prefill import finish_chunk
from imp_codegen.passes.fuse import Group
from imp_runtime.plan import DECODE_SAMPLED

_FAMILIES = {
    "embed": embed,
    "norm_linear": norm_linear,
    "attention": attention,
    "linear_add": linear_add,
    "gate_up": gate_up,
}


@dataclass(frozen=True, slots=True)
class Lowered:
    """Programs, what replaces those with resident kernels where there is no room for them, and the form of decode."""

    programs: tuple[ProgramDraft, ...]
    fallback: tuple[ProgramDraft, ...]
    chosen: Chosen


def lower(low: Lowering, groups: tuple[Group, ...], wanted: Wanted = "graph") -> Lowered:
    """Every program of plan.py's docstring, and bandwidth; `low` then knows their buffers."""
    *body, last = groups
    assert last.family == "head"
    tokens = low.chunk_tokens
    body_drafts = [draft for group in body for draft in _FAMILIES[group.family].decode(low, group)]
    graph = (*body_drafts, *head.logits(low, last))
    chosen = choose(low, groups, graph, wanted)
    greedy = sample.greedy(low, last)
    sampled = {
        name: sample.sampled(low, last, score=score, weigh=weigh) for (score, weigh), name in DECODE_SAMPLED.items()
    }
    decode = _decode(graph, greedy, sampled)
    fallback: tuple[ProgramDraft, ...] = ()
    if chosen.form == "persistent":
        decode, fallback = _decode((*embed.decode(low, groups[0]), step.draft(low, groups)), greedy, sampled), decode
    prefill = [draft for group in body for draft in _FAMILIES[group.family].prefill(low, group)]
    programs = (
        *decode,
        ProgramDraft("choose_b1", 1, sampled[DECODE_SAMPLED[True, True]]),
        ProgramDraft(f"prefill_t{tokens}", tokens, (*prefill, finish_chunk(low))),
        ProgramDraft("sample_b1", 1, head.after_prefill(low, last)),
        ProgramDraft(f"logits_t{tokens}", tokens, head.all_logits(low, last)),
        ProgramDraft(f"hidden_t{tokens}", tokens, head.all_hidden(low, last)),
        ProgramDraft("export_b1", 1, export.export(low, last)),
        ProgramDraft("top_b1", 1, export.top(low, last)),
        ProgramDraft("bandwidth", 1, (read_memory(low),)),
    )
    return Lowered(programs, fallback, chosen)


def _decode(
    forward: tuple[Draft, ...], greedy: tuple[Draft, ...], sampled: Mapping[str, tuple[Draft, ...]]
) -> tuple[ProgramDraft, ...]:
    """The programs in which a step's two forms differ."""
    return (
        ProgramDraft("decode_b1", 1, (*forward, *greedy)),
        *(ProgramDraft(name, 1, (*forward, *end)) for name, end in sampled.items()),
        ProgramDraft("forward_b1", 1, forward),
    )
