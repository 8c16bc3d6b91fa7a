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
from imp_codegen.targets import TargetError, predict_us
from imp_codegen.tuning.table import choose_step
from imp_runtime.plan import Form

Wanted = Literal["auto", "graph", "persistent"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The form of a target's decode step, and the reason in words."""

    form: Form
    reason: str


def choose(low: Lowering, groups: Sequence[Group], graph: Sequence[Draft], wanted: Wanted) -> Chosen:
    """What was wanted, or the faster form: as measured, or else by the cost model.

    TargetError if a wanted form is not possible.
    """
    if wanted == "graph":
        return Chosen("graph", "as asked for")
    obstacle = step.obstacle(low, groups)
    if wanted == "persistent":
        if obstacle is not None:
            raise TargetError(f"--exec persistent: {obstacle}; compile with --exec graph")
        return Chosen("persistent", "as asked for")
    if obstacle is not None:
        return Chosen("graph", obstacle)
    if measured := choose_step(low.tables, step.tuned(low, groups).name):
        entry, _ = measured
        return Chosen(entry.form, f"measured on {entry.why}")
    gpu = low.target.card
    if gpu is None:
        return Chosen("graph", "the simulator has no launches to save")
    if step.least_units(low, groups) < low.target.sms:
        return Chosen("graph", f"its layers are too small for all {low.target.sms} multiprocessors")
    layout, share = _main_layout(low)
    delivered = gpu.bandwidth / gpu.sms
    if (unpacked := low.target.unpacks.get(layout, delivered)) < delivered:
        return Chosen(
            "graph",
            f"{share:.0%} of the weights are {layout}, of which the step kernel unpacks {unpacked:.0f} GB/s a "
            f"multiprocessor; {gpu.title} reads {delivered:.0f}",
        )
    graph_us = sum(predict_us(gpu, draft) for draft in graph)
    persistent_us = predict_us(gpu, step.draft(replace(low, buffers={}), groups))
    faster: Form = "persistent" if persistent_us < graph_us else "graph"
    return Chosen(faster, f"predicted on {gpu.title}: persistent {persistent_us:,.0f} us, graph {graph_us:,.0f} us")


def _main_layout(low: Lowering) -> tuple[str, float]:
    """The layout of most weight bytes, and its share."""
    nbytes: Counter[str] = Counter()
    for placed in low.placed.values():
        if placed.tile is not None:
            nbytes[placed.format.layout] += placed.plane.nbytes
    ((layout, most),) = nbytes.most_common(1)
    return layout, most / nbytes.total()
