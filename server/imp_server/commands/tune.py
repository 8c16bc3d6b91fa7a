"""`imp tune`: measures how the kernels of a model are best configured on this machine, for `imp compile` to read."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from imp_codegen.targets import find_target, targets
from imp_codegen.tune.table import Table, read_table, user_path, write_table
from imp_runtime.artifact import Artifact
from imp_runtime.device import DeviceError, Launch, detect_target, open_device
from imp_runtime.errors import ImpError
from imp_runtime.plan import SAMPLING_DTYPE, Kernel
from imp_server.commands import arguments as a

if TYPE_CHECKING:
    from imp_codegen.targets import Target
    from imp_codegen.tune.measure import TuneReport
    from imp_codegen.tune.measure.experiment import Experiment
    from imp_codegen.tune.stage import Stage
    from imp_runtime.model_runner import ModelRunner

NAME = "tune"

PREDICTED_FORMATS = ("Q8_0", "Q4_K_M", "BF16")
_ROUNDS = 31
_SIM_ROUNDS = 3
_TOKENS_BEFORE = 256
_KV_TOKENS = 512


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Compiled models (.impc); with --predict shapes (config.json)."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="TABLE.json", help="The table to add to. Default: yours, in ~/.config/imp/tuning."
        ),
    ] = None,
    predict: Annotated[
        str | None,
        typer.Option("--predict", metavar="TARGET", help="Measure nothing: what the cost model says for TARGET."),
    ] = None,
    target: a.Target = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Measure configurations and both forms of a decode step on this machine; `imp compile` then uses the fastest."""
    if output is not None and output.exists():
        read_table(output)  # nothing else is written over, and nothing is measured in vain
    if predict is not None:
        _predict(files, predict, output)
        return
    chosen = target or detect_target()
    simulated = _simulated(chosen)
    path = output or (None if simulated else user_path(chosen))
    documents = []
    for file in files:
        report, device, sized = _measure(file, chosen)
        where = f"{device}, {datetime.datetime.now(datetime.UTC).date().isoformat()}"
        if path is not None:
            write_table(path, report.table(sized, f"measured by imp tune, last on {where}", where))
        documents.append({"file": str(file), "device": device, "target": chosen, **asdict(report)})
        if not as_json:
            _print(file, device, report)
    if as_json:
        print(json.dumps({"models": documents, "table": None if path is None else str(path)}, indent=2))
        return
    if simulated:
        print("times of the simulator say nothing about a GPU")
    print("nothing was written" if path is None else f"written to {path}; compile the model again to use it")


def _simulated(target: str) -> bool:
    return target in targets() and targets()[target].compiler == "g++"


def _measure(file: Path, target: str) -> tuple[TuneReport, str, Target]:
    from imp_codegen.build import build
    from imp_codegen.tune.measure import tune
    from imp_codegen.tune.measure.experiment import plan_experiment
    from imp_runtime.model_runner import ModelRunner
    from imp_runtime.race import race
    from imp_server.console.progress import progress

    artifact = Artifact.open(file)
    simulated = _simulated(target)
    with progress() as report, closing(open_device(target, simulated=simulated)) as device:
        experiment = plan_experiment(artifact, target)
        (built,) = build((experiment.unit,), functools.partial(report, "building candidates"))
        runner = ModelRunner(replace(artifact, plan=experiment.plan), device, _KV_TOKENS, report)
        _begin(runner)
        bind = _binder(runner, built.code)
        rounds = _SIM_ROUNDS if simulated else _ROUNDS
        held = _held(experiment, lambda step: device.capture(bind(step)))
        found = tune(held, lambda steps: race(device, list(map(bind, steps)), rounds), report)
        return found, device.name, experiment.target


def _begin(runner: ModelRunner) -> None:
    """What a step finds: a sequence that has some tokens already."""
    position = min(_TOKENS_BEFORE, runner.plan.context - 1, runner.kv_tokens - 1)
    greedy = np.zeros((), SAMPLING_DTYPE)
    table = runner.paging.table(position + 1, range(1, runner.blocks))
    runner.write_slot(0, position, table, greedy)
    runner.write_step(0)
    runner.write_token(0, 0)


def _binder(runner: ModelRunner, code: bytes) -> Callable[[Sequence[Kernel]], tuple[Launch, ...]]:
    """Steps of `code` to launches on the model's own planes."""
    module = runner.device.load_code(code)
    bind = functools.cache(lambda kernel: runner.bind(kernel, module))
    return lambda step: tuple(map(bind, step))


def _held(experiment: Experiment, capture: Callable[[Sequence[Kernel]], object]) -> Experiment:
    """The same, with the device's objection if it does not hold all CTAs of the step kernel at once."""
    if experiment.persistent is None:
        return experiment
    try:
        capture(experiment.persistent.programs[experiment.persistent.formula])
    except DeviceError as error:
        return replace(experiment, obstacle=str(error))
    return experiment


def _predict(files: Sequence[Path], name: str, output: Path | None) -> None:
    """Writes the whole table anew: the same shapes give the same file."""
    if any(file.suffix != ".json" for file in files):
        raise ImpError(f"--predict takes shapes (config.json), not {', '.join(map(str, files))}")
    text = predicted(files, name).to_json()
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, "utf-8")


def predicted(shapes: Sequence[Path], name: str) -> Table:
    """The cost model's table for a target: every shape in every format of `PREDICTED_FORMATS`."""
    from imp_codegen.checkpoint.random import random_checkpoint
    from imp_codegen.tune.cost_model import predicted_table
    from imp_codegen.tune.measure.experiment import stages_of

    target = find_target(name)
    stages: list[Stage] = []
    for shape in shapes:
        for quant in PREDICTED_FORMATS:
            with closing(random_checkpoint(shape, quant)) as checkpoint:
                stages += stages_of(checkpoint, target)
    return predicted_table(stages, target)


def _print(file: Path, device: str, report: TuneReport) -> None:
    from imp_server.console.tables import show, table

    graph, forms = report.graph, report.forms
    rows = [
        (
            outcome.stage.name,
            str(outcome.launches),
            str(outcome.formula),
            f"{outcome.formula_us:.2f}",
            str(outcome.choice),
            f"{outcome.us:.2f}",
        )
        for outcome in graph.outcomes
    ]
    columns = ("stage", "launches", "warps x tiles", "us each", "best", "us each")
    show(table(f"{file} on {device}", columns, rows))
    print(f"one token: {graph.formula_us:.1f} us with the formula's choices, {graph.us:.1f} us with the best ones")
    kernel = forms.persistent
    if kernel is None:
        print(f"persistent: not possible, {forms.obstacle}")
        return
    step = (str(kernel.formula), f"{kernel.formula_us:.1f}", str(kernel.choice), f"{kernel.us:.1f}")
    measured = [("graph", "", "", "", f"{forms.graph_us:.1f}"), ("persistent", *step)]
    show(table("a step in both forms", ("form", "tiles x lanes", "us", "best", "us"), measured))
    print(f"chosen: {forms.form}")
