"""`imp serve`: the HTTP server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from imp_runtime.artifact import Artifact
from imp_server.commands import arguments as a

NAME = "serve"
_SHUTDOWN_SECONDS = 3


def command(
    file: a.File,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name for the model; may be repeated.")
    ] = None,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
) -> None:
    """Serve the model over HTTP: OpenAI's /v1/chat/completions and /v1/completions, with streaming."""
    import uvicorn

    from imp_server.app import create_app
    from imp_server.async_engine import AsyncEngine
    from imp_server.http import listen
    from imp_server.model import Model
    from imp_server.progress import progress

    artifact = Artifact.open(file)  # a file that is no artifact is told before the port is taken
    failures: list[BaseException] = []

    def load() -> Model:
        try:
            with progress(transient=True) as report:
                return Model.load(file, target=target, kv_tokens=kv_tokens, progress=report)
        except BaseException as error:
            failures.append(error)
            server.should_exit = True
            raise

    listener = listen(host, port)
    app = create_app(AsyncEngine(load), aliases=tuple(alias or ()))
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=_SHUTDOWN_SECONDS))
    print(f"imp: {artifact.plan.model} at http://{host}:{listener.getsockname()[1]}/v1", file=sys.stderr)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
