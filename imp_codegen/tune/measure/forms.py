"""Which form of a decode step is faster: the graph in its best configuration, or the step kernel in its best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_codegen.tune.measure.experiment import Experiment, Persistent
from imp_codegen.tune.measure.judge import Race, wins
from imp_codegen.tune.step import Step, StepChoice
from imp_codegen.tune.table import StepEntry
from imp_runtime.plan import Form, Kernel


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The step kernel: the formula's choice and the best one, and the microseconds of a step with each."""

    step: Step
    formula: StepChoice
    formula_us: float
    choice: StepChoice
    us: float


@dataclass(frozen=True, slots=True)
class Forms:
    """The faster form, and microseconds of a step in both; `obstacle`: why one of them was not measured."""

    form: Form
    graph_us: float
    persistent: StepOutcome | None
    obstacle: str | None

    def entry(self, where: str) -> StepEntry:
        """For a tuning table; `where` says on which device and when it was measured."""
        if self.persistent is None:
            return StepEntry(None, f"{where}: persistent is not possible, {self.obstacle}")
        why = f"{where}: persistent {self.persistent.us:,.0f} us, graph {self.graph_us:,.0f} us"
        return StepEntry(self.persistent.choice if self.form == "persistent" else None, why)


def tune_forms(experiment: Experiment, graph: tuple[Kernel, ...], race: Race) -> Forms:
    """The step kernel's best numbers; then it and `graph` once more, where the one not predicted must win."""
    persistent = experiment.persistent
    if persistent is None or experiment.obstacle is not None:
        return Forms("graph", float(np.median(race((graph,)))), None, experiment.obstacle)
    choice, saved = _fastest(persistent, race)
    times = race((graph, persistent.programs[choice]))
    gain = times[:, 0] - times[:, 1]
    graph_us, us = (float(t) for t in np.median(times, axis=0))
    if experiment.predicted == "graph":
        form: Form = "persistent" if wins(gain, 0.0) else "graph"
    else:
        form = "graph" if wins(-gain, 0.0) else "persistent"
    return Forms(form, graph_us, StepOutcome(persistent.step, persistent.formula, us + saved, choice, us), None)


def _fastest(persistent: Persistent, race: Race) -> tuple[StepChoice, float]:
    """Among all candidates, then the best of them against the formula; the choice, and what it saves."""
    formula = persistent.programs[persistent.formula]
    others = [choice for choice in persistent.programs if choice != persistent.formula]
    if not others:
        return persistent.formula, 0.0
    times = race((formula, *(persistent.programs[choice] for choice in others)))
    best = others[int(np.median(times[:, 1:] - times[:, :1], axis=0).argmin())]
    again = race((formula, persistent.programs[best]))
    saved = again[:, 0] - again[:, 1]
    return (best, float(np.median(saved))) if wins(saved, 0.0) else (persistent.formula, 0.0)
