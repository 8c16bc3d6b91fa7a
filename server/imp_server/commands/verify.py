"""`imp verify`: every op of a forward pass against the numpy reference, or whether the answers hang together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imp_runtime.errors import ImpError
from imp_server.commands import arguments as a

if TYPE_CHECKING:
    from imp_codegen.comparison import VerifyRow
    from imp_codegen.verify import VerifyReport

NAME = "verify"


def command(
    file: a.File,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            min=2,
            metavar="N",
            help="Positions of the sequence that kernels run. Default: a part for each program of prompts.",
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Ask the model, and look at its answers.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=2, metavar="N", help="Of --text's answers. Default: 96.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="With --text: say what is odd about the text, but pass it.")
    ] = False,
    target: a.Target = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Compare each op with the numpy reference. Exit code 1 and the first op that differs, if one does.

    A sequence runs through every program of prompts and steps; what was not compared is named. Of a persistent decode
    step only the logits are seen; compile with --check to compare each of its phases. With --text: whether answers
    loop, hold odd tokens or depend on how they are computed. Exit code 1 if a check fails.
    """
    if text and tokens is not None:
        raise ImpError("--tokens does not go with --text, whose prompts are texts")
    if text:
        from imp_server.commands.verify_text import verify_text

        passed = verify_text(file, target, max_tokens, random_weights=random_weights, as_json=as_json)
    elif max_tokens is not None or random_weights:
        raise ImpError(f"{'--max-tokens' if max_tokens is not None else '--random-weights'} goes with --text")
    else:
        passed = _verify_kernels(file, target, tokens, as_json=as_json)
    if not passed:
        raise typer.Exit(1)


def _verify_kernels(file: Path, target: str | None, tokens: int | None, *, as_json: bool) -> bool:
    from imp_codegen.verify import verify
    from imp_runtime.engine import Engine
    from imp_server.console.progress import progress

    with progress(transient=True) as report, Engine.load(file, target=target, progress=report) as engine:
        result = verify(engine.artifact, engine.runner, report, tokens)
        where = f"{engine.target} on {engine.device_name}"
    if as_json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        _print(result, where)
    return result.first_failure is None


def _print(report: VerifyReport, where: str) -> None:
    from imp_server.console.tables import show, table

    rows = [
        (row.program, row.kernel, row.op, f"{row.error:.3g}", f"{row.allowed:.3g}", f"{row.scale:.3g}", _word(row))
        for row in report.rows
    ]
    show(table(where, ("program", "kernel", "op", "error", "allowed", "scale", ""), rows, right=3))
    print(f"one sequence of {report.positions:,} positions; not compared: {', '.join(report.not_compared)}")
    if report.not_reached:
        windows = ", ".join(f"{window:,}" for window in report.not_reached)
        print(f"no position is behind a window of {windows}: --tokens {report.not_reached[-1] + 64} runs past it")
    first = report.first_failure
    if first is None:
        print(f"all {len(report.rows)} outputs agree with the reference")
    else:
        print(
            f"first that differs: {first.op} in {first.program}, kernel {first.kernel}: an error of"
            f" {first.error:.6g}, allowed {first.allowed:.6g}, values reach {first.scale:.6g}"
        )


def _word(row: VerifyRow) -> str:
    return "ok" if row.ok else "DIFFERS"
