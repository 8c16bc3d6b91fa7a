"""One source that holds a decode step in both forms, and of its parts every configuration that is worth measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from imp_codegen.build import Unit
from imp_codegen.cache import cache_format
from imp_codegen.checkpoint import Checkpoint
from imp_codegen.emit import emit
from imp_codegen.formats import format_named
from imp_codegen.graph import Graph
from imp_codegen.kernels.family import Body
from imp_codegen.kernels.form import choose, obstacle
from imp_codegen.kernels.kernel_spec import KernelSpec, ProgramSpec
from imp_codegen.kernels.lowering import Lowering
from imp_codegen.kernels.placed import VECTOR, Placed
from imp_codegen.kernels.state import CachePlan
from imp_codegen.kernels.step.kernel import tuned
from imp_codegen.kernels.step.model import step_model
from imp_codegen.layouts import placement
from imp_codegen.models import load_architecture, load_named, sources_of, weights_of
from imp_codegen.ops import ropes
from imp_codegen.passes.place_weights import place_weights
from imp_codegen.passes.plan_state import plan_state
from imp_codegen.programs import body, lower
from imp_codegen.spec import ModelSpec
from imp_codegen.targets import Target, find_target
from imp_codegen.tune.stage import Choice, Stage
from imp_codegen.tune.step import Step, StepChoice
from imp_codegen.tune.table import Entry, StepEntry, Table
from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_runtime.plan import Form, Kernel, Plan, Plane, PlanError, TargetPlan

PROGRAM = "forward_r1"


@dataclass(frozen=True, slots=True)
class Persistent:
    """The step kernel: a step's kernels with the formula's choice and with every candidate."""

    step: Step
    formula: StepChoice
    programs: Mapping[StepChoice, tuple[Kernel, ...]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One source with a step's kernels as the formula configures them and, of each stage, with every candidate's.

    `plan`: the artifact's for the one target, with the buffers of both forms and no programs. `stages`: those with
    candidates, largest first. `others`: the kernels that replace those of a stage, by their names. `persistent`: None
    where one kernel cannot decode the model. `obstacle`: why that form cannot be measured. `predicted`: the form that
    is taken without a measurement.
    """

    unit: Unit
    target: Target
    plan: Plan
    stages: tuple[Stage, ...]
    formula: tuple[Kernel, ...]
    others: Mapping[Stage, Mapping[Choice, Mapping[str, Kernel]]]
    persistent: Persistent | None
    obstacle: str | None
    predicted: Form

    def step(self, choices: Mapping[Stage, Choice], without: Stage | None = None) -> tuple[Kernel, ...]:
        """The kernels of a step with the formula's choice but for `choices`; `without` the launches of a stage."""
        replaced = {name: k for stage, choice in choices.items() for name, k in self.others[stage][choice].items()}
        left_out = self.launches(without) if without else ()
        return tuple(replaced.get(kernel.name, kernel) for kernel in self.formula if kernel.name not in left_out)

    def launches(self, stage: Stage) -> tuple[str, ...]:
        """The names of a stage's kernels."""
        return tuple(next(iter(self.others[stage].values())))


def plan_experiment(artifact: Artifact, target: str) -> Experiment:
    """Every candidate's kernels.

    PlanError if the artifact has no code for the target, ImpError if another version of the compiler made it.
    """
    plan = artifact.plan
    try:
        compiled = plan.target(target)
    except PlanError as error:
        advice = f"compile with --target {target}, or choose one of these with --target"
        raise PlanError(f"{artifact.path}: {error}; {advice}") from None
    spec = ModelSpec.from_json(artifact.read("spec.json"))
    graph = load_named(spec.architecture).build(spec)
    sized = find_target(f"{target}:{compiled.card}")
    state = plan_state(graph, cache_format(plan.state[0].format), plan.context, plan.rows)
    lowering = _Lowerings(spec.context, graph, _placed(graph, plan.planes), state, sized)
    low, formula = lowering.step("graph")
    taken = lowering.body()
    hindrance = obstacle(taken)
    # Whoever lowers the step kernel has lowered the graph before: its buffers are those of both.
    both, as_one = (low, formula) if hindrance else lowering.step("persistent")
    if not (_same(compiled, low, formula) if compiled.form == "graph" else _same(compiled, both, as_one)):
        raise ImpError(f"{artifact.path}: was compiled by another version of imp; compile the model again")
    stages = _stage_candidates(lowering, low, formula)
    kernel = None if hindrance else tuned(step_model(taken))
    steps = _step_candidates(lowering, kernel) if kernel else {}
    emitted = emit(
        (
            ProgramSpec("formula", 1, formula),
            *(ProgramSpec(f"{stage.kind}_{choice.warps}x{choice.slots}", 1, specs) for stage, choice, specs in stages),
            *(ProgramSpec(f"step_{choice.in_flight}x{choice.lanes}", 1, specs) for choice, specs in steps.items()),
        ),
        spec.architecture,
        plan.quant,
        target,
    )
    kernels = [program.kernels for program in emitted.programs]
    others: dict[Stage, dict[Choice, Mapping[str, Kernel]]] = {}
    for (stage, choice, _), changed in zip(stages, kernels[1:], strict=False):
        others.setdefault(stage, {})[choice] = {kernel.name: kernel for kernel in changed}
    programs = dict(zip(steps, kernels[1 + len(stages) :], strict=True))
    return Experiment(
        unit=Unit(target, low.target.compiler, emitted.source),
        target=low.target,
        plan=replace(plan, targets=(replace(compiled, buffers=both.all_buffers(), programs=(), fallback=()),)),
        stages=tuple(others),
        formula=kernels[0],
        others=others,
        persistent=Persistent(kernel, kernel.formula(low.target), programs) if kernel else None,
        obstacle=hindrance,
        predicted=choose(taken, formula, "auto").form,
    )


def stages_of(checkpoint: Checkpoint, target: Target) -> tuple[Stage, ...]:
    """The streamed stages that a checkpoint's model would have on a target."""
    architecture = load_architecture(checkpoint)
    spec = architecture.read_spec(checkpoint)
    graph = architecture.build(spec)
    weights = weights_of(checkpoint, graph, sources_of(architecture, checkpoint, spec, graph))
    placed = place_weights(graph, weights, checkpoint.path, (target.name,))
    rows = target.chunks[-1]
    state = plan_state(graph, cache_format("f16"), spec.context, rows)  # which matters to no streamed stage
    low, _ = _Lowerings(spec.context, graph, placed, state, target).step("graph")
    return tuple(low.streams)


def _same(compiled: TargetPlan, low: Lowering, specs: Sequence[KernelSpec]) -> bool:
    """Whether an artifact's decode step is what this compiler makes."""
    kernels = [(kernel.name, kernel.args) for kernel in compiled.program(PROGRAM).kernels]
    made = [(spec.name, tuple(param.binding for _, param in spec.params())) for spec in specs]
    return kernels == made and compiled.buffers == low.all_buffers()


def _stage_candidates(
    lowering: _Lowerings, low: Lowering, formula: Sequence[KernelSpec]
) -> list[tuple[Stage, Choice, tuple[KernelSpec, ...]]]:
    """The kernels that each choice changes, the largest stage's first."""
    found = []
    for stage in sorted(low.streams, key=lambda stage: -stage.plane_bytes):
        for choice in stage.candidates(low.target):
            table = Table(low.target.name, "", {stage.name: Entry(choice, "")}, "candidate")
            _, specs = lowering.step("graph", table)
            changed = tuple(spec for spec, usual in zip(specs, formula, strict=True) if spec != usual)
            if changed:
                found.append((stage, choice, changed))
    return found


def _step_candidates(lowering: _Lowerings, kernel: Step) -> dict[StepChoice, tuple[KernelSpec, ...]]:
    """A step with each choice of the step kernel, the formula's first."""
    found = {}
    for choice in (kernel.formula(lowering.target), *kernel.candidates(lowering.target)):
        table = Table(lowering.target.name, "", {}, "candidate", {kernel.name: StepEntry(choice, "")})
        _, found[choice] = lowering.step("persistent", table)
    return found


def _placed(graph: Graph, planes: Sequence[Plane]) -> Mapping[str, Placed]:
    """The weights as an artifact holds them."""
    by_name = {plane.name: plane for plane in planes}
    placed = {}
    for weight in graph.weights().values():
        plane = by_name[weight.name]
        layout, tile = (None, None) if plane.layout == VECTOR else placement(plane)
        placed[weight.name] = Placed(weight, format_named(plane.format), layout, tile, plane)
    return placed


@dataclass(frozen=True, slots=True)
class _Lowerings:
    """A model that is lowered again and again with other tables."""

    context: int
    graph: Graph
    placed: Mapping[str, Placed]
    state: CachePlan
    target: Target

    def step(self, form: Form, *tables: Table) -> tuple[Lowering, tuple[KernelSpec, ...]]:
        """The kernels of a step, and what lowering them asked for."""
        low = self._lowering(tables)
        lowered = lower(low, self.graph, form)
        return low, next(program.kernels for program in lowered.programs if program.name == PROGRAM)

    def body(self) -> Body:
        """The graph as kernels of one row take it."""
        return body(self._lowering(()), self.graph, 1)

    def _lowering(self, tables: tuple[Table, ...]) -> Lowering:
        return Lowering(self.target, self.placed, self.state, ropes(self.graph), self.context, tables=tables)
