"""compile_model: a checkpoint to an artifact, step by step."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from imp_codegen.build import CodeObject, Flavour, Unit, build
from imp_codegen.cache import cache_format
from imp_codegen.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from imp_codegen.checkpoint.heads import HeadCheckpoint
from imp_codegen.checkpoint.random import random_checkpoint
from imp_codegen.emit import Emitted, emit
from imp_codegen.graph import Graph, verify
from imp_codegen.kernels.form import Wanted
from imp_codegen.kernels.lowering import LEDGERS, SLOTS, Lowering
from imp_codegen.kernels.placed import Placed
from imp_codegen.models import load_architecture, sources_of, weights_of
from imp_codegen.ops import ropes as ropes_of
from imp_codegen.output import check_output
from imp_codegen.pack import computed, counter, pack, planes
from imp_codegen.passes.account import account
from imp_codegen.passes.fuse import fuse
from imp_codegen.passes.place_weights import place_weights
from imp_codegen.passes.plan_state import plan_state
from imp_codegen.passes.round_weights import history, round_weights, told
from imp_codegen.passes.w4a4 import left_accurate, refuse_targets
from imp_codegen.programs import lower
from imp_codegen.recipe import Recipe, recipe_of
from imp_codegen.reference import artifact_weights, stored_weights
from imp_codegen.rope import RopeSpec
from imp_codegen.rounding_report import COMPARED_TOKENS, RoundingReport, rounding_report
from imp_codegen.sources import Source, spans_of
from imp_codegen.spec import ModelSpec
from imp_codegen.stored import Stored
from imp_codegen.targets import Target, find_targets
from imp_codegen.tokenizer import TokenizerFiles, build_tokenizer
from imp_codegen.tune.table import Chosen, Table, shipped
from imp_runtime.artifact import RECIPE, Artifact
from imp_runtime.artifact_writer import write_artifact
from imp_runtime.errors import ImpError
from imp_runtime.evaluation_text import evaluation_text
from imp_runtime.plan import PLAN_VERSION, PagedState, Plan, Prefill, TargetPlan
from imp_runtime.version import VERSION

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """`random_weights`: the source is a config.json, the weights are random in format `quant`.

    `context`: longest sequence, instead of the model's. `dump`: a folder to write every step to. `kv`: format of the
    cache's rows.
    `check`: the simulator's code watches its threads for races, bad addresses and missing barriers; a GPU's stops with
    a message where it would wait for ever; a step in one kernel keeps what each phase makes, for `imp verify`.
    `describe_chat`: what a chat template can do, as the JSON that the artifact keeps beside the template; None leaves
    out a template that is of no use. `tuning`: tables of all targets, the first that knows a stage or the step decides
    how it is configured. `form`: of a decode step. `force`: the output may replace a file that is no artifact.
    `thin`: the artifact gets a recipe for its weights in place of them. `weights`: what matrices are rounded to, as
    `rounding/` has it; `compare`: what that has done to the model's predictions is then measured. `prefill`: what a
    prompt's activations become.
    """

    random_weights: bool = False
    quant: str = "Q8_0"
    context: int | None = None
    dump: Path | None = None
    check: bool = False
    describe_chat: Callable[[str], str | None] | None = None
    tuning: tuple[Table, ...] = field(default_factory=shipped)
    form: Wanted = "auto"
    force: bool = False
    kv: str = "f16"
    thin: bool = False
    weights: str | None = None
    compare: bool = False
    prefill: Prefill = "f16"


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target's outcome. `cached`: the code object was built before. `streams`: each stage's configuration."""

    target: str
    kernels_per_program: Mapping[str, int]
    streams: Mapping[str, Chosen]
    cached: bool
    log: str


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What was made: seconds of each step, targets, weight bytes read for each decoded token, size of the artifact.

    `notes` are what the file leaves open, a line each for people. `rounding`: None where weights are as the file has
    them.
    """

    steps: tuple[tuple[str, float], ...]
    targets: tuple[TargetReport, ...]
    bytes_per_token: int
    artifact_bytes: int
    plan: Plan
    notes: tuple[str, ...]
    rounding: RoundingReport | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """Everything but the packed weights."""

    plan: Plan
    spec: ModelSpec
    graph: Graph
    ropes: tuple[RopeSpec, ...]
    placed: Mapping[str, Placed]
    weights: Mapping[str, Stored]
    sources: Mapping[str, Source]
    tokenizer: TokenizerFiles
    emitted: Mapping[str, Emitted]
    streams: Mapping[str, Mapping[str, Chosen]]
    notes: tuple[str, ...]


def compile_model(
    source: Path | Checkpoint, output: Path, targets: tuple[str, ...], options: CompileOptions, progress: Progress
) -> CompileReport:
    """Compile `source` to the artifact `output`; ImpError for bad input.

    It is a GGUF file, a folder, a config.json with random weights, or an open checkpoint, which is closed at the end.
    """
    if options.weights and options.random_weights:
        raise ImpError(f"--weights {options.weights} rounds a model's weights; invented ones have what --quant says")
    if options.thin and options.random_weights:
        raise ImpError("--thin leaves weights to imp link, which takes them from files, and random ones lie in none")
    clock = _Clock()
    chosen = find_targets(targets)
    with clock.step("read"):
        checkpoint = _opened(source, options)
    with closing(checkpoint):
        check_output(output, checkpoint.path, options.force)
        with clock.step("plan and emit"):
            compiled = plan_model(checkpoint, chosen, options)
        with clock.step("build"):
            units = tuple(_unit(target, compiled.emitted[target.name], options) for target in chosen)
            built = build(units, partial(progress, "build"))
            objects = {target.name: code for target, code in zip(chosen, built, strict=True)}
        with clock.step("hash" if options.thin else "pack"):
            recipe = _recipe(checkpoint, compiled, progress) if options.thin else None
            _write(output, compiled, objects, recipe, options, progress)
        rounding = None
        if options.weights is not None:
            with clock.step("compare"):
                rounding = _rounding_report(checkpoint, compiled, output, options, progress)
    reports = tuple(
        TargetReport(
            t.target,
            {p.name: len(p.kernels) for p in t.programs},
            compiled.streams[t.target],
            objects[t.target].cached,
            objects[t.target].log,
        )
        for t in compiled.plan.targets
    )
    plan = compiled.plan
    size, notes = output.stat().st_size, compiled.notes
    return CompileReport(tuple(clock.steps), reports, plan.decode_weight_bytes, size, plan, notes, rounding)


def _opened(source: Path | Checkpoint, options: CompileOptions) -> Checkpoint:
    if not isinstance(source, Path):
        return source
    return random_checkpoint(source, options.quant) if options.random_weights else open_checkpoint(source)


def plan_model(checkpoint: Checkpoint, targets: tuple[Target, ...], options: CompileOptions) -> Compiled:
    """Checkpoint to spec, graph, kernels, source and plan; no compiler is run and no weight is read."""
    if options.prefill == "w4a4":
        refuse_targets(targets)
    architecture = load_architecture(checkpoint)
    spec = architecture.read_spec(checkpoint)
    if options.context is not None:
        spec = replace(spec, context=_checked_context(options.context, spec))
    tokenizer = build_tokenizer(checkpoint)
    if tokenizer.vocab_size > spec.vocab:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {tokenizer.vocab_size} tokens, but the embedding only {spec.vocab} "
            "rows; they are of two models, convert or download it again"
        )
    graph = verify(architecture.build(spec))
    sources, rounding = sources_of(architecture, checkpoint, spec, graph), ""
    if options.weights is not None:
        sources = round_weights(graph, sources, options.weights)
        spec, rounding = told(spec, history(checkpoint, sources), options.weights)
    left_out = account(checkpoint, spec, sources.values())
    weights = weights_of(checkpoint, graph, sources)
    placed = place_weights(graph, weights, checkpoint.path, [target.name for target in targets])
    rows = max(target.chunks[-1] for target in targets)
    cache, ropes = plan_state(graph, cache_format(options.kv), spec.context, rows), ropes_of(graph)
    quant = _quant_name(placed)
    emitted, streams, plans = {}, {}, []
    accurate: tuple[str, ...] = ()
    for target in targets:
        tables = tuple(table for table in options.tuning if table.fits(target))
        low = Lowering(
            target, placed, cache, ropes, spec.context, tables=tables, prefill=options.prefill, check=options.check
        )
        lowered = lower(low, graph, options.form)
        if options.prefill == "w4a4":
            accurate = left_accurate(lowered.programs, placed)
        made = emit(lowered.programs, spec.architecture, quant, target.name, lowered.fallback)
        emitted[target.name] = made
        streams[target.name] = {stage.name: chosen for stage, chosen in low.streams.items()}
        plans.append(
            TargetPlan(
                target.name,
                target.compiler == "g++",
                target.card.name,
                target.sms,
                f"code/{target.name}",
                lowered.chosen.form,
                lowered.chosen.reason,
                low.all_buffers(),
                made.programs,
                made.fallback,
            )
        )
    plan = Plan(
        version=PLAN_VERSION,
        model=spec.name,
        architecture=spec.architecture,
        quant=quant,
        rounding=rounding,
        prefill=options.prefill,
        parameters=sum(p.weight.rows * p.weight.cols for p in placed.values()),
        vocab=spec.vocab,
        hidden=spec.hidden,
        layers=len(spec.layers),
        context=spec.context,
        slots=SLOTS,
        ledgers=LEDGERS,
        rows=rows,
        table_blocks=-(-spec.context // 16),
        decode_weight_bytes=sum(k.weight_bytes for k in plans[0].program("step_r1").kernels),
        bos_token=-1 if tokenizer.bos is None else tokenizer.bos,
        eos_token=-1 if tokenizer.eos is None else tokenizer.eos,
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
        pooling=spec.pooling,
        stop_tokens=tokenizer.stop_tokens,
        state=tuple(PagedState(group.layers, options.kv, group.window, group.nbytes) for group in cache.groups),
        block_bytes=cache.block_bytes,
        planes=planes(placed, ropes),
        targets=tuple(plans),
    )
    if options.dump is not None:
        _dump(options.dump, spec, graph, plan, emitted)
    notes = (*tokenizer.notes, *left_out, *_rope_notes(spec), *accurate)
    return Compiled(plan, spec, graph, ropes, placed, weights, sources, tokenizer, emitted, streams, notes)


def _rope_notes(spec: ModelSpec) -> tuple[str, ...]:
    if not spec.original_context or spec.context <= spec.original_context:
        return ()
    return (
        f"the rotary embedding is that of sequences longer than {spec.original_context:,} tokens, for others too; "
        f"--context {spec.original_context} takes the one that is meant for those",
    )


def _write(
    output: Path,
    compiled: Compiled,
    objects: Mapping[str, CodeObject],
    recipe: Recipe | None,
    options: CompileOptions,
    progress: Progress,
) -> None:
    tokenizer = compiled.tokenizer
    blobs = {
        "generation.json": json.dumps({"eos_token_id": [*tokenizer.stop_tokens], **tokenizer.recommended}).encode(),
        "spec.json": compiled.spec.to_json().encode(),
        "tokenizer.json": tokenizer.tokenizer_json.encode(),
        **{f"code/{name}": item.code for name, item in objects.items()},
        **{f"source/{name}.cu": item.source.encode() for name, item in compiled.emitted.items()},
    }
    for kind, template in (("", tokenizer.chat_template), (".tool_use", tokenizer.tool_template)):
        if template is None:
            continue
        if options.describe_chat is not None:
            description = options.describe_chat(template)
            if description is None:
                continue
            blobs[f"chat{kind}.json"] = description.encode()
        blobs[f"chat_template{kind}.jinja"] = template.encode()
    plan, weights = compiled.plan, compiled.weights
    if recipe is not None:
        write_artifact(output, plan, {**blobs, RECIPE: recipe.to_json()}, {"imp_version": VERSION}, ())
        return
    packed = counter(partial(progress, "pack"), sum(plane.nbytes for plane in plan.planes))
    packing = pack(plan.planes, weights.__getitem__, computed(compiled.ropes), packed)
    write_artifact(output, plan, blobs, {"imp_version": VERSION}, packing)


def _recipe(checkpoint: Checkpoint, compiled: Compiled, progress: Progress) -> Recipe:
    used = {name for source in compiled.sources.values() for name in spans_of(source)}
    hashed = counter(partial(progress, "hash"), sum(checkpoint.tensors[name].nbytes for name in used))
    return recipe_of(checkpoint, compiled.sources, computed(compiled.ropes), hashed)


def _rounding_report(
    checkpoint: Checkpoint, compiled: Compiled, output: Path, options: CompileOptions, progress: Progress
) -> RoundingReport:
    """What rounding has done, by what the artifact holds or, where that is nothing, by what will be packed."""
    if not options.compare or isinstance(checkpoint, HeadCheckpoint):
        found = None
    else:
        found = stored_weights(compiled.weights) if options.thin else artifact_weights(Artifact.open(output))
    tokens = compiled.tokenizer.first_tokens(evaluation_text(), min(COMPARED_TOKENS, compiled.spec.context))
    planes, told = compiled.plan.planes, partial(progress, "compare")
    return rounding_report(checkpoint, compiled.graph, compiled.sources, planes, found, tokens, told)


def _unit(target: Target, emitted: Emitted, options: CompileOptions) -> Unit:
    flavour: Flavour = "check" if options.check else "plain"
    if target.compiler == "g++":
        return Unit(target.name, "g++", emitted.own, flavour, emitted.shared)
    return Unit(target.name, "nvcc", emitted.source, flavour)


def _checked_context(context: int, spec: ModelSpec) -> int:
    if not 16 <= context <= spec.context:
        raise ImpError(f"--context {context}: the model {spec.name} takes 16 to {spec.context}")
    return context


def _quant_name(placed: Mapping[str, Placed]) -> str:
    """The matrices' formats, most bytes first."""
    count: Counter[str] = Counter()
    for item in placed.values():
        if item.tile is not None:
            count[item.format.name] += item.plane.nbytes
    return "+".join(name for name, _ in count.most_common())


def _dump(folder: Path, spec: ModelSpec, graph: Graph, plan: Plan, emitted: Mapping[str, Emitted]) -> None:
    """Every step of the pipeline as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1-spec.json").write_text(json.dumps(json.loads(spec.to_json()), indent=1) + "\n", "utf-8")
    (folder / "2-graph.txt").write_text(graph.dump(), "utf-8")
    groups = "".join(f"{type(match).__name__} {match.name}\n" for match in fuse(graph, 1))
    (folder / "3-groups.txt").write_text(groups, "utf-8")
    (folder / "4-plan.json").write_text(json.dumps(json.loads(plan.to_json()), indent=1) + "\n", "utf-8")
    for name, item in emitted.items():
        (folder / f"5-{name}.cu").write_text(item.source, "utf-8")


class _Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.steps.append((name, time.perf_counter() - start))
