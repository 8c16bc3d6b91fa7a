"""The fastest configuration of each stage of the graph form.

A candidate is judged by what it does to the whole step, since kernels overlap: one that is fast alone may slow down its
neighbours. The best candidate of a stage must beat the choice so far a second time, by more than the noise and by more
than one percent of the stage; and all winners together must beat the formula, or nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from imp_codegen.tune.measure.experiment import Experiment
from imp_codegen.tune.measure.judge import Race, wins
from imp_codegen.tune.stage import Choice, Stage

_WORTH = 0.01  # of a stage's time


@dataclass(frozen=True, slots=True)
class Outcome:
    """One stage: the formula's choice and the best one, and the microseconds of one launch with each."""

    stage: Stage
    launches: int
    formula: Choice
    formula_us: float
    choice: Choice
    us: float

    def why(self, where: str) -> str:
        """What speaks for the choice; `where` says on which device and when it was measured."""
        if self.choice == self.formula:
            return f"{where}: {self.formula_us:.2f} us, the formula's choice stays"
        return f"{where}: {self.us:.2f} us, formula {self.formula} {self.formula_us:.2f}"


@dataclass(frozen=True, slots=True)
class Graph:
    """All stages, and microseconds of a step with the formula's choices and with the best ones."""

    outcomes: tuple[Outcome, ...]
    formula_us: float
    us: float

    @property
    def choices(self) -> Mapping[Stage, Choice]:
        """The choices that differ from the formula's."""
        return {o.stage: o.choice for o in self.outcomes if o.choice != o.formula}


def tune_stages(experiment: Experiment, race: Race, progress: Callable[[str, int, int], None]) -> Graph:
    """Stage by stage the fastest choice."""
    best: dict[Stage, Choice] = {}
    outcomes = []
    for done, stage in enumerate(experiment.stages):
        progress("measuring stages", done, len(experiment.stages))
        outcome = _tune_stage(experiment, stage, best, race)
        if outcome.choice != outcome.formula:
            best[stage] = outcome.choice
        outcomes.append(outcome)
    times = race((experiment.step({}), experiment.step(best)))
    if best and not wins(times[:, 0] - times[:, 1], 0.0):
        outcomes = [replace(o, choice=o.formula, us=o.formula_us) for o in outcomes]
        times[:, 1] = times[:, 0]
    progress("measuring stages", len(experiment.stages), len(experiment.stages))
    formula_us, us = (float(t) for t in np.median(times, axis=0))
    return Graph(tuple(outcomes), formula_us, us)


def _tune_stage(experiment: Experiment, stage: Stage, best: Mapping[Stage, Choice], race: Race) -> Outcome:
    """Among all candidates, then between the best of them and the formula: the best of many looks better than it is."""
    candidates = tuple(experiment.others[stage])
    formula = stage.formula(experiment.target)
    now = experiment.step(best)
    steps = [experiment.step({**best, stage: choice}) for choice in candidates]
    times = race((now, experiment.step(best, without=stage), *steps))
    stage_us = float(np.median(times[:, 0] - times[:, 1]))
    least = _WORTH * max(stage_us, 0.0)
    fastest = int(np.median(times[:, 2:] - times[:, :1], axis=0).argmin())
    again = race((now, steps[fastest]))
    saved = again[:, 0] - again[:, 1]
    won = wins(saved, least)
    launches = len(experiment.launches(stage))
    us = stage_us - float(np.median(saved)) if won else stage_us
    choice = candidates[fastest] if won else formula
    return Outcome(stage, launches, formula, stage_us / launches, choice, us / launches)
