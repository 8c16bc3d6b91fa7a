"""tune: one decode step of an artifact in every candidate configuration of its stages, and which of them is fastest.

A candidate is judged by what it does to the whole step, since kernels overlap: one that is fast alone may slow down its
neighbours. The best candidate of a stage must beat the choice so far a second time, by more than the noise and by more
than one percent of the stage; and all winners together must beat the formula, or nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_codegen.build import Unit
from imp_codegen.checkpoint import Checkpoint
from imp_codegen.emit import emit
from imp_codegen.graph import Graph
from imp_codegen.kernels import lower
from imp_codegen.kernels.draft import Draft, ProgramDraft
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.models import load_architecture, load_named
from imp_codegen.passes.fuse import fuse
from imp_codegen.passes.place_weights import VECTOR, Placed, place_weights
from imp_codegen.quant import Tile, formats
from imp_codegen.spec import ModelSpec
from imp_codegen.targets import Target, find_target
from imp_codegen.tuning.stage import Choice, Stage
from imp_codegen.tuning.table import Entry, Table
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.plan import Kernel, KvSpec, Plane

PROGRAM = "forward_b1"
_WORTH = 0.01  # of a stage's time
_ERRORS = 3  # standard errors that a gain must have

Floats = NDArray[np.float64]
Race = Callable[[Sequence[tuple[Kernel, ...]]], Floats]  # steps to microseconds [rounds, steps]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One source with a step's kernels as the formula configures them and, of each stage, with every candidate's.

    `stages`: those with candidates, largest first. `others`: the kernels that replace those of a stage, by their names.
    """

    unit: Unit
    target: Target
    stages: tuple[Stage, ...]
    formula: tuple[Kernel, ...]
    others: Mapping[Stage, Mapping[Choice, Mapping[str, Kernel]]]

    def step(self, choices: Mapping[Stage, Choice], without: Stage | None = None) -> tuple[Kernel, ...]:
        """The kernels of a step with the formula's choice but for `choices`; `without` the launches of a stage."""
        replaced = {name: k for stage, choice in choices.items() for name, k in self.others[stage][choice].items()}
        left_out = self.launches(without) if without else ()
        return tuple(replaced.get(kernel.name, kernel) for kernel in self.formula if kernel.name not in left_out)

    def launches(self, stage: Stage) -> tuple[str, ...]:
        """The names of a stage's kernels."""
        return tuple(next(iter(self.others[stage].values())))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One stage: the formula's choice and the best one, and the microseconds of one launch with each."""

    stage: Stage
    launches: int
    formula: Choice
    formula_us: float
    choice: Choice
    us: float


@dataclass(frozen=True, slots=True)
class TuneReport:
    """All stages, and microseconds of a step with the formula's choices and with the best ones."""

    outcomes: tuple[Outcome, ...]
    formula_us: float
    us: float

    def table(self, target: str, source: str, where: str) -> Table:
        """The outcomes as a table; `where` says on which device and when they were measured."""
        return Table(target, source, {o.stage.name: Entry(o.choice, _why(o, where)) for o in self.outcomes}, "measured")


def plan_experiment(artifact: Artifact, target: str) -> Experiment:
    """Every candidate's kernels; ImpError if the artifact was compiled by another version of the compiler."""
    plan = artifact.plan
    spec = ModelSpec.from_json(artifact.read("spec.json"))
    graph = load_named(spec.architecture).build(spec)
    lowering = _Lowerings(spec, graph, _placed(graph, plan.planes), find_target(target), plan.chunk_tokens)
    low, formula = lowering.step(())
    compiled = plan.target(target)
    if compiled.form == "persistent":
        raise ImpError(
            f"{artifact.path}: decodes in one kernel, which has no stages to tune; compile with --exec graph"
        )
    kernels = [(kernel.name, kernel.args) for kernel in compiled.program(PROGRAM).kernels]
    if kernels != [(draft.name, tuple(p.binding for p in draft.params())) for draft in formula]:
        raise ImpError(f"{artifact.path}: was compiled by another version of imp; compile the model again")
    if low.all_buffers() != compiled.buffers:
        raise ImpError(f"{artifact.path}: was compiled by another version of imp; compile the model again")
    programs = [ProgramDraft("formula", 1, formula)]
    keys: list[tuple[Stage, Choice]] = []
    for stage in sorted(low.streams, key=lambda stage: -stage.plane_bytes):
        for choice in stage.candidates(low.target):
            _, drafts = lowering.step((Table(target, "", {stage.name: Entry(choice, "")}, "candidate"),))
            changed = tuple(draft for draft, usual in zip(drafts, formula, strict=True) if draft != usual)
            if changed:
                programs.append(ProgramDraft(f"{stage.kind}_{choice.warps}x{choice.slots}", 1, changed))
                keys.append((stage, choice))
    emitted = emit(tuple(programs), plan.model, plan.quant, target)
    others: dict[Stage, dict[Choice, Mapping[str, Kernel]]] = {}
    for (stage, choice), program in zip(keys, emitted.programs[1:], strict=True):
        others.setdefault(stage, {})[choice] = {kernel.name: kernel for kernel in program.kernels}
    unit = Unit(target, low.target.compiler, emitted.source)
    return Experiment(unit, low.target, tuple(others), emitted.programs[0].kernels, others)


def stages_of(checkpoint: Checkpoint, target: Target) -> tuple[Stage, ...]:
    """The streamed stages that a checkpoint's model would have on a target."""
    architecture = load_architecture(checkpoint)
    spec = architecture.read_spec(checkpoint)
    graph = architecture.build(spec)
    low, _ = _Lowerings(spec, graph, place_weights(graph, checkpoint), target, chunk_tokens=128).step(())
    return tuple(low.streams)


def tune(experiment: Experiment, race: Race, progress: Callable[[str, int, int], None]) -> TuneReport:
    """Stage by stage the fastest choice; `race` measures steps against each other."""
    best: dict[Stage, Choice] = {}
    outcomes = []
    for done, stage in enumerate(experiment.stages):
        progress("measuring stages", done, len(experiment.stages))
        outcome = _tune_stage(experiment, stage, best, race)
        if outcome.choice != outcome.formula:
            best[stage] = outcome.choice
        outcomes.append(outcome)
    times = race((experiment.step({}), experiment.step(best)))
    if best and not _wins(times[:, 0] - times[:, 1], 0.0):
        outcomes = [Outcome(o.stage, o.launches, o.formula, o.formula_us, o.formula, o.formula_us) for o in outcomes]
        times[:, 1] = times[:, 0]
    progress("measuring stages", len(experiment.stages), len(experiment.stages))
    formula_us, us = (float(t) for t in np.median(times, axis=0))
    return TuneReport(tuple(outcomes), formula_us, us)


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
    wins = _wins(saved, least)
    launches = len(experiment.launches(stage))
    us = stage_us - float(np.median(saved)) if wins else stage_us
    choice = candidates[fastest] if wins else formula
    return Outcome(stage, launches, formula, stage_us / launches, choice, us / launches)


def _wins(saved: Floats, least: float) -> bool:
    """Whether the median of what was saved in each round is more than `least` and than the noise."""
    median = float(np.median(saved))
    # 1.4826: a normal distribution's deviation from its median deviation; 1.2533: a median's error from a mean's.
    error = 1.2533 * 1.4826 * float(np.median(np.abs(saved - median))) / math.sqrt(len(saved))
    return median > max(least, _ERRORS * error)


def _why(outcome: Outcome, where: str) -> str:
    if outcome.choice == outcome.formula:
        return f"{where}: {outcome.formula_us:.2f} us, the formula's choice stays"
    return f"{where}: {outcome.us:.2f} us, formula {outcome.formula} {outcome.formula_us:.2f}"


def _placed(graph: Graph, planes: Sequence[Plane]) -> Mapping[str, Placed]:
    """The weights as an artifact holds them."""
    by_name = {plane.name: plane for plane in planes}
    placed = {}
    for weight in graph.weights().values():
        plane = by_name[weight.name]
        layout, _, shape = plane.layout.partition(":")
        tile = None if layout == VECTOR else Tile(*(int(n) for n in shape.split("x")))
        placed[weight.name] = Placed(weight, formats()[plane.format], tile, plane)
    return placed


@dataclass(frozen=True, slots=True)
class _Lowerings:
    """A model that is lowered again and again with other tables."""

    spec: ModelSpec
    graph: Graph
    placed: Mapping[str, Placed]
    target: Target
    chunk_tokens: int

    def step(self, tables: tuple[Table, ...]) -> tuple[Lowering, tuple[Draft, ...]]:
        """The kernels of a step, and what drafting them asked for."""
        attention = self.spec.layers[0].attention
        kv = KvSpec(len(self.spec.layers), attention.kv_heads, attention.head_dim)
        low = Lowering(self.spec, self.target, self.placed, kv, self.chunk_tokens, tables)
        programs, _ = lower(low, fuse(self.graph))
        return low, next(program.drafts for program in programs if program.name == PROGRAM)
