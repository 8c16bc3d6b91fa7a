"""tune: one decode step of an artifact in every candidate configuration, in both forms, and which is fastest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imp_codegen.targets import Target
from imp_codegen.tune.measure.experiment import Experiment
from imp_codegen.tune.measure.forms import Forms, tune_forms
from imp_codegen.tune.measure.judge import Race
from imp_codegen.tune.measure.stages import Graph, tune_stages
from imp_codegen.tune.table import Entry, Table


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The stages of the graph form, and both forms. `step`: the key of the whole step, None where it has no choice."""

    graph: Graph
    forms: Forms
    step: str | None

    def table(self, target: Target, source: str, where: str) -> Table:
        """The outcomes as a table; `where` says on which device and when they were measured."""
        stages = {o.stage.name: Entry(o.choice, o.why(where)) for o in self.graph.outcomes}
        steps = {self.step: self.forms.entry(where)} if self.step is not None else {}
        return Table(target.name, source, stages, "measured", steps, target.sms)


def tune(experiment: Experiment, race: Race, progress: Callable[[str, int, int], None]) -> TuneReport:
    """The fastest choices of all; `race` measures steps against each other."""
    graph = tune_stages(experiment, race, progress)
    progress("measuring forms", 0, 1)
    forms = tune_forms(experiment, experiment.step(graph.choices), race)
    progress("measuring forms", 1, 1)
    return TuneReport(graph, forms, experiment.persistent.step.name if experiment.persistent else None)
