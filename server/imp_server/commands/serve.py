"""`imp serve`: the HTTP server."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from imp_runtime.artifact import Artifact
from imp_server import config as configuration
from imp_server.commands import arguments as a

NAME = "serve"
log = logging.getLogger("imp")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings. Default: ./imp.conf, ~/.config/imp/imp.conf.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="A setting; may be repeated.")
]


def command(
    file: a.File,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8080]")] = None,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name for the model; may be repeated.")
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Answer whatever model a request names, instead of 404.")
    ] = False,
    api_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Let in only who has a key; may be repeated.")
    ] = None,
    api_key_file: Annotated[str | None, typer.Option(metavar="FILE", help="Keys, one a line.")] = None,
    think_budget: Annotated[
        int | None, typer.Option(metavar="N", help="Most reasoning tokens of an answer, unless the request says.")
    ] = None,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Serve the model over HTTP for OpenAI's and Anthropic's clients, with a chat page at /. See imp config show."""
    flags: dict[str, configuration.Value] = {
        "server.host": host,
        "server.port": port,
        "server.alias": tuple(alias) if alias else None,
        "server.any_model": any_model or None,
        "server.think_budget": think_budget,
        "server.target": target,
        "server.kv_tokens": kv_tokens,
        "api.key": tuple(api_key) if api_key else None,
        "api.key_file": api_key_file,
    }
    config, _ = configuration.load(config_file, assignments or (), flags)
    serve(file, config)


def serve(file: Path, config: configuration.Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises ImpError when the file, the port or the model cannot be had."""
    from imp_server import logs
    from imp_server.app import create_app
    from imp_server.gateway import wrap
    from imp_server.http import listen
    from imp_server.lifetime import Server
    from imp_server.metrics import Metrics, ObservedEngine
    from imp_server.model import Model
    from imp_server.progress import progress
    from imp_server.sd_notify import sd_notify

    artifact = Artifact.open(file)  # a file that is no artifact is told before the port is taken
    failures: list[BaseException] = []

    def load() -> Model:
        try:
            with progress(transient=True) as report:
                model = Model.load(
                    file,
                    target=config.server.target,
                    kv_tokens=config.server.kv_tokens,
                    prefix_cache=config.server.prefix_cache,
                    check_weights=config.server.check_weights,
                    progress=report,
                )
        except BaseException as error:
            failures.append(error)
            server.should_exit = True
            raise
        sd_notify("READY=1")
        log.info("ready: %s on %s", model.plan.model, model.engine.device_name)
        return model

    logs.configure(config.log)
    metrics = Metrics()
    engine = ObservedEngine(load, metrics, limit=config.limits.concurrent + config.limits.queue)
    app = create_app(
        engine,
        aliases=config.server.alias,
        any_model=config.server.any_model,
        think_budget=config.server.think_budget,
        ping_seconds=config.server.ping_seconds,
        most_values=config.limits.body_values,
    )
    gateway = wrap(app, config, metrics)
    server = Server(gateway, config)
    with listen(config.server.host, config.server.port) as listener:
        address = f"http://{_printable(config.server.host)}:{listener.getsockname()[1]}"
        print(f"imp: {artifact.plan.model} at {address}/v1", file=sys.stderr)
        if config.server.web:
            print(f"imp: chat at {address}/", file=sys.stderr)
        if not (config.api.key or config.api.key_file or _is_local(config.server.host)):
            log.warning("anybody who reaches this port may use the model; --api-key or --api-key-file asks for a key")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)  # uvicorn raises it again when it has ended
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _leave(_: int, __: FrameType | None) -> NoReturn:
    sys.exit(0)


def _printable(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
