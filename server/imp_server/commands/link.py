"""`imp link`: a thin artifact gets its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.commands.compile import checkpoint_of

NAME = "link"


def command(
    thin: Annotated[Path, typer.Argument(metavar="THIN.impc", help="What imp compile --thin has made.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="What it was compiled from: a .gguf file, a folder or hf:org/repo[:QUANT]."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.impc", help="The file to write.")],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite OUT even if it is no compiled model.")
    ] = False,
) -> None:
    """Add the weights to a thin artifact, checking each. Needs no compiler and no GPU."""
    from imp_codegen.link import link
    from imp_codegen.output import check_output
    from imp_server.console.progress import progress

    check_output(output, Path(source), force)  # before anything is downloaded
    with progress() as report:
        link(thin, checkpoint_of(source), output, report, force)


def linked(thin: Path, source: str) -> Path:
    """The whole artifact of a thin one, linked with the weights of `source` unless it is kept from an earlier time."""
    from imp_codegen.link import kept, link
    from imp_server.console.progress import progress

    if not Artifact.open(thin, thin=True).thin:
        raise ImpError(f"{thin}: has its weights already; leave --weights-from out")
    path = kept(thin)
    try:
        Artifact.open(path)
    except ImpError:  # there is none, or it is damaged
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress() as report:
            link(thin, checkpoint_of(source), path, report, force=True)
    return path
