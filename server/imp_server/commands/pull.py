"""`imp pull`: an artifact out of an index that `imp build` has made, checked, and linked if it is thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imp_server.commands.compile import checkpoint_of

NAME = "pull"


def command(
    index: Annotated[
        str, typer.Argument(metavar="INDEX", help="An index.json or its folder: http://, https://, file:// or a path.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which model of it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.impc", help="The file to write. Default: NAME.impc.")
    ] = None,
    weights_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What a thin artifact is linked with: a .gguf file, a folder or hf:org/repo[:QUANT]. Default: the hf: "
            "source that the index names.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite OUT even if it is no compiled model.")
    ] = False,
) -> None:
    """Fetch a compiled model, compare it with its SHA-256, and add the weights if it is thin."""
    from imp_codegen.link import link
    from imp_codegen.output import check_output
    from imp_runtime.artifact import Artifact
    from imp_server.console.progress import progress
    from imp_server.remote.pull import fetch, find

    listed = find(index, name)
    path = output or Path(f"{name}.impc")  # the name is one that the index has, and its files are called so
    fetched = path.with_name(f"{path.name.removesuffix('.impc')}.thin.impc") if listed.thin else path
    for each in {path, fetched}:
        check_output(each, Path(index), force)
    with progress() as report:
        new = fetch(listed, fetched, lambda done, total: report("fetch", done, total))
        Artifact.open(fetched, thin=True)
        print(f"{fetched}: {'fetched' if new else 'was here'}, SHA-256 {listed.sha256}")
        if not listed.thin:
            return
        source = weights_from or listed.source
        if source is None:
            print(f"it is thin; add the weights of its model: imp link {fetched} MODEL -o {path}")
            return
        link(fetched, checkpoint_of(source), path, report, force)
    print(f"{path}: linked with {source}")
