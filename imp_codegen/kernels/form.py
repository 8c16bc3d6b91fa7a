"""How a decode step runs: as a graph of kernels, or as one persistent kernel. The choice, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from imp_codegen.kernels import step
from imp_codegen.kernels.draft import Draft
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.passes.fuse import Group
from imp_codegen.targets import Gpu, TargetError
from imp_runtime.plan import Form

Wanted = Literal["auto", "graph", "persistent"]
# The step kernel has fewer warps to unpack with: 536 tok/s against 576 (8B Q4_K_M on an H200).
_COSTLY_LAYOUTS = {"Q4_K", "Q6_K"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The form of a target's decode step, and the reason in words."""

    form: Form
    reason: str


def choose(low: Lowering, groups: Sequence[Group], graph: Sequence[Draft], wanted: Wanted) -> Chosen:
    """What was wanted, or the faster form by the cost model; TargetError if a wanted form is not possible."""
    if wanted == "graph":
        return Chosen("graph", "as asked for")
    obstacle = step.obstacle(low, groups)
    if wanted == "persistent":
        if obstacle is not None:
            raise TargetError(f"--exec persistent: {obstacle}; compile with --exec graph")
        return Chosen("persistent", "as asked for")
    if obstacle is not None:
        return Chosen("graph", obstacle)
    if not low.target.gpus:
        return Chosen("graph", "the simulator runs kernels one by one")
    if step.least_units(low, groups) < low.target.sms:
        return Chosen("graph", f"its layers are too small for all {low.target.sms} multiprocessors")
    layout, share = _main_layout(low)
    if layout in _COSTLY_LAYOUTS:
        return Chosen("graph", f"{share:.0%} of the weights are {layout}, which more warps unpack faster")
    gpu = low.target.gpus[0]
    graph_us = sum(_us(gpu, draft) for draft in graph)
    persistent_us = _us(gpu, step.draft(replace(low, buffers={}), groups))
    faster: Form = "persistent" if persistent_us < graph_us else "graph"
    return Chosen(faster, f"predicted on {gpu.title}: persistent {persistent_us:,.0f} us, graph {graph_us:,.0f} us")


def _us(gpu: Gpu, draft: Draft) -> float:
    """Predicted time of a decode kernel: bytes and overheads."""
    streaming = (draft.weight_bytes + draft.other_bytes) / (gpu.bandwidth * 1e3)
    return streaming + gpu.launch_us + (draft.phases - 1) * gpu.phase_us


def _main_layout(low: Lowering) -> tuple[str, float]:
    """The layout of most weight bytes, and its share."""
    nbytes: Counter[str] = Counter()
    for placed in low.placed.values():
        if placed.tile is not None:
            nbytes[placed.format.layout] += placed.plane.nbytes
    ((layout, most),) = nbytes.most_common(1)
    return layout, most / nbytes.total()
