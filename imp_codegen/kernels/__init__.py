"""Kernel families: one file each, groups of operations in, drafted kernels out. This module composes the programs."""

from __future__ import annotations

from imp_codegen.kernels import attention, embed, gate_up, head, linear_add, norm_linear
from imp_codegen.kernels.bandwidth import read_memory
from imp_codegen.kernels.draft import ProgramDraft
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.prefill import finish_chunk
from imp_codegen.passes.fuse import Group

_FAMILIES = {
    "embed": embed,
    "norm_linear": norm_linear,
    "attention": attention,
    "linear_add": linear_add,
    "gate_up": gate_up,
}


def lower(low: Lowering, groups: tuple[Group, ...]) -> tuple[ProgramDraft, ...]:
    """decode_b1, prefill_t*, sample_b1, logits_t* and bandwidth; `low` then knows their buffers."""
    *body, last = groups
    assert last.family == "head"
    tokens = low.chunk_tokens
    decode = [draft for group in body for draft in _FAMILIES[group.family].decode(low, group)]
    prefill = [draft for group in body for draft in _FAMILIES[group.family].prefill(low, group)]
    return (
        ProgramDraft("decode_b1", 1, (*decode, *head.decode(low, last))),
        ProgramDraft(f"prefill_t{tokens}", tokens, (*prefill, finish_chunk(low))),
        ProgramDraft("sample_b1", 1, head.after_prefill(low, last)),
        ProgramDraft(f"logits_t{tokens}", tokens, head.all_logits(low, last)),
        ProgramDraft("bandwidth", 1, (read_memory(low),)),
    )
