"""`imp serve`: the HTTP server."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from imp_runtime.artifact import Artifact
from imp_runtime.errors import ImpError
from imp_server.commands import arguments as a
from imp_server.operation import config as configuration

if TYPE_CHECKING:
    from imp_runtime.plan import Pooling
    from imp_server.generation.options import Options

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
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; several with commas, or repeated.  [default: 127.0.0.1]"
        ),
    ] = None,
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
    chat_template: Annotated[
        str | None, typer.Option(metavar="FILE", help="A Jinja chat template to use in place of the model's.")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(metavar="auto|on|off", help="Think before answers, unless the request says.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(metavar="mean|cls|last|none", help="What an embedding is made of.  [default: the file's]"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 is greedy. Default: the model's.")] = None,
    top_k: a.TopK = None,
    top_p: a.TopP = None,
    min_p: a.MinP = None,
    seed: a.Seed = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", metavar="N", help="Most tokens of an answer.")
    ] = None,
    target: a.Target = None,
    kv_tokens: a.KvTokens = None,
    kv_share: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, metavar="P", help="Most of the free memory for the KV cache.")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Keep an answer's last bits whoever else is served: no steps together."),
    ] = False,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Serve the model over HTTP for OpenAI's and Anthropic's clients, with a chat page at /. See imp config show."""
    flags: dict[str, configuration.Value] = {
        "server.host": tuple(each.strip() for part in host for each in part.split(",")) if host else None,
        "server.port": port,
        "server.alias": tuple(alias) if alias else None,
        "server.any_model": any_model or None,
        "server.think_budget": think_budget,
        "server.chat_template": chat_template,
        "server.reasoning": reasoning,
        "server.pooling": pooling,
        "sampling.temperature": temperature,
        "sampling.top_k": top_k,
        "sampling.top_p": top_p,
        "sampling.min_p": min_p,
        "sampling.seed": seed,
        "sampling.max_tokens": max_tokens,
        "server.target": target,
        "server.kv_tokens": kv_tokens,
        "server.kv_share": kv_share,
        "server.deterministic": deterministic or None,
        "api.key": tuple(api_key) if api_key else None,
        "api.key_file": api_key_file,
    }
    config, _ = configuration.load(config_file, assignments or (), flags)
    serve(file, config)


def serve(file: Path, config: configuration.Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises ImpError when the file, the port or the model cannot be had."""
    from imp_server.api.app import create_app
    from imp_server.api.http import listen
    from imp_server.console.progress import progress
    from imp_server.model import Model
    from imp_server.operation import logs
    from imp_server.operation.gateway import wrap
    from imp_server.operation.lifetime import Server
    from imp_server.operation.metrics import Metrics, ObservedEngine
    from imp_server.operation.sd_notify import sd_notify

    artifact = Artifact.open(file)  # a file that is no artifact is told before the port is taken
    template = _text_of(config.server.chat_template)
    failures: list[BaseException] = []

    def load() -> Model:
        try:
            with progress(transient=True) as report:
                model = Model.load(
                    file,
                    target=config.server.target,
                    kv_tokens=config.server.kv_tokens,
                    kv_share=config.server.kv_share,
                    prefix_cache=config.server.prefix_cache,
                    deterministic=config.server.deterministic,
                    check_weights=config.server.check_weights,
                    chat_template=template,
                    progress=report,
                )
            defaults = {name: value for name, value in asdict(config.sampling).items() if name != "max_tokens"}
            thinks = {"on": True, "off": False}.get(config.server.reasoning)
            model.serve_with(cast("Options", defaults), think=thinks)
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
        max_tokens=config.sampling.max_tokens,
        ping_seconds=config.server.ping_seconds,
        most_values=config.limits.body_values,
        concurrent=config.limits.concurrent,
        pooling=cast("Pooling | None", config.server.pooling),
    )
    gateway = wrap(app, config, metrics)
    server = Server(gateway, config)
    with contextlib.ExitStack() as held:
        listeners, port = [], config.server.port
        for host in config.server.host:
            listeners.append(held.enter_context(listen(host, port)))
            port = listeners[0].getsockname()[1]  # where any was asked for, all take the same
        addresses = [f"http://{_printable(host)}:{port}" for host in config.server.host]
        print(f"imp: {artifact.plan.model} at {', '.join(f'{each}/v1' for each in addresses)}", file=sys.stderr)
        if config.server.web:
            print(f"imp: chat at {addresses[0]}/", file=sys.stderr)
        if not (config.api.key or config.api.key_file or all(map(_is_local, config.server.host))):
            log.warning("anybody who reaches this port may use the model; --api-key or --api-key-file asks for a key")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)  # uvicorn raises it again when it has ended
        server.run(sockets=listeners)
    if failures:
        raise failures[0]


def _leave(_: int, __: FrameType | None) -> NoReturn:
    sys.exit(0)


def _text_of(path: str | None) -> str | None:
    """The text of a chat template's file. Raises ImpError."""
    if path is None:
        return None
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ImpError(f"--chat-template {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ImpError(f"--chat-template {path} is no text in UTF-8: byte {error.start}") from None


def _printable(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
