"""How a decode step runs: as a graph of kernels, or as one persistent kernel. The choice, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from imp_codegen.kernels.family import Body
from imp_codegen.kernels.kernel_spec import KernelSpec
from imp_codegen.kernels.step.kernel import shortage, step_kernel, tiles_us, tuned
from imp_codegen.kernels.step.model import misfit, step_model
from imp_codegen.kernels.step.units import least_units
from imp_codegen.predict import predict_us
from imp_codegen.targets import TargetError
from imp_codegen.tune.table import choose_step
from imp_runtime.plan import Form

Wanted = Literal["auto", "graph", "persistent"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The form of a target's decode step, and the reason in words."""

    form: Form
    reason: str


def choose(body: Body, graph: Sequence[KernelSpec], wanted: Wanted) -> Chosen:
    """What was wanted, or the faster form: as measured, or else by the cost model.

    TargetError if a wanted form is not possible.
    """
    if wanted == "graph":
        return Chosen("graph", "as asked for")
    hindrance = obstacle(body)
    if wanted == "persistent":
        if hindrance is not None:
            raise TargetError(f"--exec persistent: {hindrance}; compile with --exec graph")
        return Chosen("persistent", "as asked for")
    if hindrance is not None:
        return Chosen("graph", hindrance)
    low, model = body.low, step_model(body)
    if measured := choose_step(low.tables, tuned(model).name):
        entry, _ = measured
        return Chosen(entry.form, f"measured on {entry.why}")
    card = low.target.card
    if card.speed is None:
        return Chosen("graph", "the simulator has no launches to save")
    if least_units(model) < low.target.sms:
        return Chosen("graph", f"its layers are too small for all {low.target.sms} multiprocessors")
    graph_us = predict_us(card, graph)
    streaming_us = predict_us(card, (step_kernel(replace(model, low=replace(low, buffers={}))),))
    persistent_us = max(streaming_us, tiles_us(model))
    faster: Form = "persistent" if persistent_us < graph_us else "graph"
    return Chosen(faster, f"predicted for {card.basis}: persistent {persistent_us:,.0f} us, graph {graph_us:,.0f} us")


def obstacle(body: Body) -> str | None:
    """Why one kernel cannot decode the model on this target, or None."""
    return misfit(body) or shortage(step_model(body))
