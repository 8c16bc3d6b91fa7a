"""`imp bench`: speed of prompt processing (pp) and token generation (tg), measured as llama-bench does."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imp_runtime.errors import ImpError
from imp_server.commands import arguments as a
from imp_server.commands.bench_batch import measure_batches, most_sequences, parse_batches
from imp_server.commands.bench_kernels import StepSpeed, measure_kernels
from imp_server.commands.bench_plot import check_plot, draw
from imp_server.commands.bench_speed import SAMPLINGS, Result, measure
from imp_server.console.tables import quantity, show, table

if TYPE_CHECKING:
    from imp_runtime.plan import Plan

NAME = "bench"


class Form(Enum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "md"
    CSV = "csv"


def command(
    file: a.File,
    prompt: Annotated[int, typer.Option("--prompt", "-p", min=0, metavar="N", help="Prompt tokens; 0: no pp.")] = 512,
    generate: Annotated[int, typer.Option("--generate", "-n", min=0, metavar="N", help="Tokens; 0: no tg.")] = 128,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, metavar="N")] = 5,
    depth: Annotated[int, typer.Option("--depth", "-d", min=0, metavar="N", help="Tokens before those of a test.")] = 0,
    batches: Annotated[
        str | None,
        typer.Option("--batch", "-b", metavar="N,N", help="So many sequences at once, after -p tokens each."),
    ] = None,
    sampling: Annotated[
        bool, typer.Option("--sampling", help="Beside greedy: temperature, filters, penalties, log-probabilities, ...")
    ] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="Form of the results.")] = Form.TABLE,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Time each kernel of the decode step, and draw it.")
    ] = None,
    target: a.Target = None,
) -> None:
    """Measure tok/s. pp: a prompt; tg: tokens one by one, greedy at first; both after DEPTH tokens.

    With -b, tokens of several sequences at once, each after a prompt of its own.
    """
    from imp_runtime.engine import Engine
    from imp_server.console.progress import progress

    if plot is not None:
        check_plot(plot)
        if output is Form.CSV:
            raise ImpError("--plot gives two tables, which -o csv cannot; use -o json")
    counts = [] if batches is None else parse_batches(batches)
    samplings = [*SAMPLINGS] if sampling else ["greedy"]
    with progress(transient=True) as report, Engine.load(file, target=target, progress=report) as engine:
        if counts:
            results = measure_batches(engine, counts, prompt, generate, repetitions, depth, samplings)
            _tell_left_out(engine.plan, counts, samplings)
        else:
            results = measure(engine, prompt, generate, repetitions, depth, samplings)
        step = measure_kernels(engine, max(depth, 1)) if plot is not None else None
        title = f"{engine.plan.model} {engine.plan.weights}, {engine.device_name}"
        title += "; simulated: times mean nothing" if engine.runner.target.simulated else ""
    if not results and step is None:
        raise ImpError("-p 0 and -n 0 leave nothing to measure")
    _print(results, step, output)
    if step is not None and plot is not None:
        draw(step, title, plot)
        print(f"{plot}: {title}", file=sys.stderr)


def _tell_left_out(plan: Plan, counts: Sequence[int], samplings: Sequence[str]) -> None:
    for name in samplings:
        most = most_sequences(plan, SAMPLINGS[name])
        if left_out := [count for count in counts if count > most]:
            many = ", ".join(map(str, left_out))
            print(f"imp: {name}: left out for {many} sequences, {most} can have it at once", file=sys.stderr)


def _print(results: Sequence[Result], step: StepSpeed | None, form: Form) -> None:
    if form is Form.JSON:
        tests = [dataclasses.asdict(result) for result in results]
        print(json.dumps({"tests": tests, "step": dataclasses.asdict(step)} if step else tests, indent=2))
        return
    if form is Form.CSV:
        writer = csv.DictWriter(sys.stdout, [field.name for field in dataclasses.fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(result) for result in results)
        return
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]], int]] = []
    if results:
        tables.append(_filled(_COLUMNS, [*map(_cells, results)], 3))
    if step is not None:
        tables.append((_STEP_COLUMNS, _step_rows(step), 2))
    if form is Form.MARKDOWN:
        print("\n\n".join(_markdown(*each) for each in tables))
    else:
        show(*(table("", columns, rows, right=right) for columns, rows, right in tables))


def _filled(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: int
) -> tuple[Sequence[str], Sequence[Sequence[str]], int]:
    """The table without columns that are empty in every row; all before `right` are filled."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], right


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> str:
    ruler = [" --- "] * right + [" ---: "] * (len(columns) - right)
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(ruler) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


_COLUMNS = (
    *("model", "target", "test", "size", "params", "tok/s", "each"),
    *("MB/step", "KV MB/step", "GB/s", "of read", "busy", "host cores"),
)


def _cells(result: Result) -> tuple[str, ...]:
    possible = f" of {result.read_bandwidth:.0f}" if result.read_bandwidth else ""
    return (
        f"{result.model} {result.quant}",
        f"{result.target}, {result.device}",
        result.test,
        quantity(result.size, "B"),
        quantity(result.parameters, ""),
        f"{result.mean:.2f} ± {result.deviation:.2f}",
        _shown(result.each, ".2f"),
        _shown(result.weight_bytes_per_step, ".2f", 1e-6),
        _shown(result.kv_bytes_per_step, ".3f", 1e-6),
        _shown(result.bandwidth, ".1f") + possible,
        _shown(result.share, ".1%"),
        _shown(result.busy, ".2%"),
        _shown(result.host_cores, ".2f"),
    )


_STEP_COLUMNS = ("kernel", "ops", "launches", "bytes", "FLOP/byte", "us each", "us all", "time", "GB/s", "of read")


def _step_rows(step: StepSpeed) -> list[tuple[str, ...]]:
    """A row for each kernel, their sum, and the whole step, in which one kernel's start hides in another's end."""
    alone = sum(kernel.launches * kernel.us for kernel in step.kernels)
    rows = [
        (
            kernel.entry,
            kernel.ops,
            f"{kernel.launches}",
            quantity(kernel.nbytes, "B"),
            f"{kernel.flops / kernel.nbytes:.2f}" if kernel.nbytes else "",
            f"{kernel.us:.2f}",
            f"{kernel.launches * kernel.us:.1f}",
            f"{kernel.share:.1%}",
            f"{kernel.bandwidth:.1f}",
            _shown(step.read_bandwidth and kernel.bandwidth / step.read_bandwidth, ".1%"),
        )
        for kernel in step.kernels
    ]
    whole = sum(kernel.launches * kernel.nbytes for kernel in step.kernels) / step.us / 1e3
    share = _shown(step.read_bandwidth and whole / step.read_bandwidth, ".1%")
    return [
        *rows,
        ("alone", "", "", "", "", "", f"{alone:.1f}", "", "", ""),
        (f"step at {step.position}", "", "", "", "", "", f"{step.us:.1f}", "", f"{whole:.1f}", share),
    ]


def _shown(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, form)
